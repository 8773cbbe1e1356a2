"""A program for tests: measures the way between two hosts.

`answer` sends back each datagram and takes in what comes over TCP; `delay ADDRESS COUNT`, `loss ADDRESS COUNT` and `rate ADDRESS SECONDS`
say what they found, as a line of JSON.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import threading
import time

PORT = 7000
_WAIT_SECONDS = 1.0
_PIECE_BYTES = 65536


def answer() -> None:
    stream = socket.create_server(("", PORT))
    threading.Thread(target=_take_in, args=(stream,), daemon=True).start()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("", PORT))
    say(answers=True)
    while True:
        data, sender = datagrams.recvfrom(_PIECE_BYTES)
        datagrams.sendto(data, sender)


def delay(address: str, count: int) -> None:
    """The median and the least round trip of datagrams, one at a time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((address, PORT))
        asking.settimeout(_WAIT_SECONDS)
        took = []
        for number in range(count):
            started = time.perf_counter()
            asking.send(number.to_bytes(4))
            asking.recv(16)
            took.append(time.perf_counter() - started)
    say(seconds=statistics.median(took), least=min(took))


def loss(address: str, count: int) -> None:
    """The part of datagrams that had no answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((address, PORT))
        asking.settimeout(_WAIT_SECONDS)
        came = 0
        for number in range(count):
            asking.send(number.to_bytes(4))
            last = number == count - 1
            if number % 50 == 49 or last:
                asking.settimeout(_WAIT_SECONDS if last else 0.0)
                came += _all_that_came(asking)
                time.sleep(0.002)  # a burst of thousands would overflow the interface's own queue
    say(lost=1 - came / count)


def rate(address: str, seconds: float) -> None:
    """Bits in a second that a TCP connection takes to the other side, counted there."""
    with socket.create_connection((address, PORT)) as sending:
        piece, started = bytes(_PIECE_BYTES), time.monotonic()
        while time.monotonic() - started < seconds:
            sending.sendall(piece)
        sending.shutdown(socket.SHUT_WR)
        bits, took = json.loads(sending.makefile().read())
    say(bits_per_second=bits / took)


def _all_that_came(asking: socket.socket) -> int:
    count = 0
    try:
        while asking.recv(16):
            count += 1
    except (BlockingIOError, TimeoutError):
        return count
    return count


def _take_in(listening: socket.socket) -> None:
    while True:
        connection, _ = listening.accept()
        with connection:
            count = len(connection.recv(_PIECE_BYTES))
            started = time.monotonic()
            while piece := connection.recv(_PIECE_BYTES):
                count += len(piece)
            connection.sendall(json.dumps([count * 8, time.monotonic() - started]).encode())


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["answer"]:
            answer()
        case ["delay", address, count]:
            delay(address, int(count))
        case ["loss", address, count]:
            loss(address, int(count))
        case ["rate", address, seconds]:
            rate(address, float(seconds))
