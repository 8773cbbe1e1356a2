"""Who may connect: so many at once, so many of one address that have not proven who they are, and who goes too far waits outside.

gRPC takes what the kernel gives it, and knows no limit for one address. So the kernel is told whom to let in, by a filter on the socket
that listens (Linux; elsewhere only the limit in all holds). A connection is young until gRPC would have ended an unfinished handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ipaddress
import itertools
import logging
import os
import resource
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Protocol, TypeAlias

from protos.net.thin import repeat_soon
from protos.sparing import Sparing

HANDSHAKE_SECONDS = 5.0  # who connects and proves nothing is let go; gRPC's default is 120 s
YOUNG_OF_ONE = 32  # connections of one address at once, that have proven nothing yet
BARRED_SECONDS = 10.0
MOST_BARRED = 128  # addresses; the filter has up to 13 instructions for each, of 4,096 that the kernel takes
MOST_IN_ALL = 512  # connections of a device: each costs some 60 KiB
MOST_OF_A_GATEWAY = 4096
LEAST_IN_ALL = 64
_LOOK_SECONDS = 0.25
_SELDOM = 20  # looks: when all is quiet, only to know who has been here for long
_DESCRIPTORS = 65_536  # more would only make room for more of what nobody wants

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
# Classic BPF (linux/filter.h): what to load, to compare, to return; jumps count instructions from the next.
_LOAD_WORD, _LOAD_BYTE, _AND, _JUMP_EQUAL, _RETURN = 0x20, 0x30, 0x54, 0x15, 0x06
_NETWORK = 0xFFF0_0000  # SKF_NET_OFF: from here on an offset counts from the IP header
_FLAGS, _SYN, _SYN_ACK = 13, 0x02, 0x12
_PASS, _DROP = 0xFFFF_FFFF, 0

Instruction: TypeAlias = tuple[int, int, int, int]
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_log = logging.getLogger(__name__)
_warn = Sparing(_log)


def raise_limit() -> int:
    """Let this process have as many descriptors as the system allows it; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return soft


def most_connections(gateway: bool) -> int:
    """To one server: half of the descriptors are kept for the disk, and for whom we dial."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OF_A_GATEWAY if gateway else MOST_IN_ALL
    return most if soft == resource.RLIM_INFINITY else max(LEAST_IN_ALL, min(most, soft // 2))


class Stoppable(Protocol):
    async def stop(self, grace: float | None) -> None: ...


class Door:
    """Before a server that listens at `port`, until `stop`, which ends the server too."""

    def __init__(self, server: Stoppable, port: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._port = port
        self._most = most
        self._clock = clock
        self._listening = _listening_at(port) if sys.platform == "linux" else []
        repeat_soon(self._listening)
        self._quiet = _lowest_free(self._listening[0]) + YOUNG_OF_ONE if self._listening else 0
        self._since: dict[tuple[int, str, int], float] = {}  # by descriptor and far end: seen first
        self._barred: dict[Address, float] = {}  # until when
        self._busy = False
        self._watching = asyncio.create_task(self._watch(), name=f"the door of port {port}") if self._listening else None

    @property
    def barred(self) -> list[str]:
        """Addresses that may not connect now."""
        return [str(address) for address in self._barred]

    async def stop(self, grace: float | None) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        for one in self._listening:
            one.close()
        self._listening = []
        await self._server.stop(grace)

    async def _watch(self) -> None:
        for n in itertools.count():
            try:
                # The lowest free descriptor tells how many there are, for two system calls.
                if self._busy or n % _SELDOM == 0 or _lowest_free(self._listening[0]) > self._quiet:
                    self._look()
            except OSError as error:  # no descriptor is free: others in this process have no limit
                _log.debug("the door of port %d: %s", self._port, error)
            await asyncio.sleep(_LOOK_SECONDS)

    def _look(self) -> None:
        now = self._clock()
        self._since = {one: self._since.get(one, now) for one in _connections(self._port)}
        grown_at = now - HANDSHAKE_SECONDS - _LOOK_SECONDS
        young = Counter(address for (_, address, _), since in self._since.items() if since > grown_at)
        proven = {address for (_, address, _), since in self._since.items() if since <= grown_at}
        offending = _too_many(young, proven, self._most // 2)
        barred = {address: until for address, until in self._barred.items() if until > now}
        barred |= {_parsed(address): now + BARRED_SECONDS for address in offending}
        barred = dict(list(barred.items())[-MOST_BARRED:])
        if new := barred.keys() - self._barred.keys():
            shown = ", ".join(sorted(map(str, new))[:3])
            _warn(logging.WARNING, "%s: connections that prove nothing, %d addresses are kept out for now", shown, len(barred))
        if barred.keys() != self._barred.keys():
            for listening in self._listening:
                _attach(listening, program(barred))
        self._barred = barred
        self._busy = bool(young or barred)


def _too_many(young: Counter[str], proven: Collection[str], room: int) -> list[str]:
    """Addresses of too many connections; and, where all together leave no room, those of the most, unless a member is there as well."""
    found, left = [], young.total()
    for address, count in young.most_common():
        if count > YOUNG_OF_ONE or (left > room and address not in proven):
            found.append(address)
            left -= count
    return found


def program(barred: Iterable[Address]) -> list[Instruction]:
    """A filter that drops the first packet of a connection when it comes from one of these. All else passes: connections that stand are
    given the same filter."""
    addresses = sorted(barred, key=lambda address: (address.version, int(address)))
    out: list[Instruction] = [
        (_LOAD_BYTE, 0, 0, _FLAGS),
        (_AND, 0, 0, _SYN_ACK),
        (_JUMP_EQUAL, 1, 0, _SYN),
        (_RETURN, 0, 0, _PASS),
    ]
    fours = [int(address) for address in addresses if address.version == 4]
    sixes = [address.packed for address in addresses if address.version == 6]
    for version, words in [(4, [[each] for each in fours]), (6, [list(struct.unpack(">4I", each)) for each in sixes])]:
        offset = 12 if version == 4 else 8
        for parts in words:
            steps = 2 * len(parts) + 1
            out += [(_LOAD_BYTE, 0, 0, _NETWORK), (_AND, 0, 0, 0xF0), (_JUMP_EQUAL, 0, steps, version << 4)]
            for n, part in enumerate(parts):
                out += [(_LOAD_WORD, 0, 0, _NETWORK + offset + 4 * n), (_JUMP_EQUAL, 0, steps - 2 * n - 2, part)]
            out.append((_RETURN, 0, 0, _DROP))
    return [*out, (_RETURN, 0, 0, _PASS)]


def _attach(listening: socket.socket, instructions: list[Instruction]) -> None:
    if len(instructions) == len(program(())):
        with contextlib.suppress(OSError):  # there was none
            listening.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(instructions), ctypes.addressof(code)))
    except OSError as error:
        _log.debug("no filter before a port: %s", error)


def _parsed(address: str) -> Address:
    found = ipaddress.ip_address(address.partition("%")[0])
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def _lowest_free(one: socket.socket) -> int:
    descriptor = os.dup(one.fileno())
    os.close(descriptor)
    return descriptor


def _listening_at(port: int) -> list[socket.socket]:
    """Handles of our own on what listens there in this process."""
    return [
        socket.socket(fileno=os.dup(number)) for number, one in _sockets(port) if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ]


def _connections(port: int) -> list[tuple[int, str, int]]:
    """Of what was accepted there: descriptor, far address, far port."""
    found = []
    for number, one in _sockets(port):
        with contextlib.suppress(OSError):  # it listens, or has just ended
            host, far_port, *_ = one.getpeername()
            found.append((number, str(host), int(far_port)))
    return found


def _sockets(port: int) -> Iterable[tuple[int, socket.socket]]:
    """Of this process, bound to this port; theirs, so only to be looked at."""
    for name in os.listdir("/proc/self/fd"):
        try:
            one = socket.socket(fileno=int(name))
        except OSError:  # no socket, or gone
            continue
        try:
            if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM and one.getsockname()[1] == port:
                yield int(name), one
        except OSError:
            pass
        finally:
            one.detach()
