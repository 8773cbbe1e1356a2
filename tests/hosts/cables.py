"""A program for tests: a switch that the hosts' cables end at, each a TAP device, with the delay, loss and rate that each cable is given.

Its arguments are the names of the devices that it makes, for others to move to the hosts. What it reads on stdin, a line of JSON each, is
how a cable is from now on; it answers each line on stdout. It is here because not every kernel has `tc netem`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sim_devices.links import WIRE, LinkShape

FRAME_BYTES = 2048  # more than Ethernet's 1514
QUEUED_FRAMES = 1000  # of one cable, what comes when so many wait is dropped; netem's default limit
_AT_ONCE = 64  # frames of one cable before the others have their turn
_TUNSETIFF, _TAP, _NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_INTERFACE = "16sH22x"  # struct ifreq
_FIFO_PRIORITY = 10


@dataclass(eq=False)
class Cable:
    """`shape` is of what comes from the host, as if netem stood on its interface. Frames keep their order, whatever the jitter."""

    name: str
    shape: LinkShape = WIRE
    cut: bool = False
    guarded: bool = False  # as behind NAT: the host begins connections, and nobody begins one to it
    free_at: float = 0.0  # when all that came has left, at the cable's rate
    due: deque[tuple[float, bytes]] = field(default_factory=deque)  # when it arrives at the switch, and what

    def __post_init__(self) -> None:
        self.device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.device, _TUNSETIFF, struct.pack(_INTERFACE, self.name.encode(), _TAP | _NO_PI))

    def fileno(self) -> int:
        return self.device

    def arrives(self, frame: bytes, now: float, chance: random.Random) -> float | None:
        """When at the switch; None: never."""
        shape = self.shape
        if self.cut or (self.guarded and _is_datagram(frame)) or len(self.due) >= QUEUED_FRAMES or chance.random() < shape.loss:
            return None
        left = now
        if shape.rate_bits_per_second:
            left = self.free_at = max(now, self.free_at) + len(frame) * 8 / shape.rate_bits_per_second
        at = left + shape.delay_seconds
        if shape.jitter_seconds:
            at += chance.uniform(-shape.jitter_seconds, shape.jitter_seconds)
        return max(at, self.due[-1][0]) if self.due else at

    def hand(self, frame: bytes) -> None:
        """To the host; an interface that is down, or whose queue is full, loses it."""
        if not (self.cut or (self.guarded and (_is_datagram(frame) or _begins(frame)))):
            with contextlib.suppress(OSError):
                os.write(self.device, frame)


class Cables:
    """The switch: it learns where addresses are, and hands to all what is for many or for nobody it knows."""

    def __init__(self, names: Sequence[str], chance: random.Random) -> None:
        self._cables = {name: Cable(name) for name in names}
        self._known: dict[bytes, Cable] = {}
        self._chance = chance

    def run(self) -> None:
        """Until stdin ends. `select`, because it alone waits for less than a millisecond."""
        waited_for = [sys.stdin, *self._cables.values()]
        while True:
            soonest = min((cable.due[0][0] for cable in self._cables.values() if cable.due), default=None)
            ready = select.select(waited_for, [], [], None if soonest is None else max(0.0, soonest - time.monotonic()))[0]
            for one in ready:
                if isinstance(one, Cable):
                    self._take(one)
                elif not self._told(sys.stdin.readline()):
                    return
            self._pass_on()

    def _take(self, cable: Cable) -> None:
        for _ in range(_AT_ONCE):
            try:
                frame = os.read(cable.device, FRAME_BYTES)
            except OSError:  # nothing more, or its host was removed
                return
            now = time.monotonic()
            at = cable.arrives(frame, now, self._chance)
            if at is None:
                continue
            if at > now or cable.due:
                cable.due.append((at, frame))
            else:
                self._switch(cable, frame)

    def _pass_on(self) -> None:
        now = time.monotonic()
        for cable in self._cables.values():
            while cable.due and cable.due[0][0] <= now:
                self._switch(cable, cable.due.popleft()[1])

    def _switch(self, source: Cable, frame: bytes) -> None:
        self._known[frame[6:12]] = source
        target = None if frame[0] & 1 else self._known.get(frame[:6])
        if target is not None:
            target.hand(frame)
            return
        for cable in self._cables.values():
            if cable is not source:
                cable.hand(frame)

    def _told(self, line: str) -> bool:
        if not line:
            return False
        told: Mapping[str, object] = json.loads(line)
        cable = self._cables[str(told["cable"])]
        if isinstance(told.get("shape"), dict):
            cable.shape = LinkShape(**told["shape"])  # type: ignore[arg-type]
        cable.cut, cable.guarded = bool(told.get("cut", cable.cut)), bool(told.get("guarded", cable.guarded))
        say(**told)
        return True


def _transport(frame: bytes) -> tuple[int, int]:
    """Of an IP packet: the number of what it carries (6: TCP, 17: UDP), and where that begins. (0, 0) for what is no IP."""
    match frame[12:14]:
        case b"\x08\x00":
            return frame[23], 14 + (frame[14] & 0x0F) * 4
        case b"\x86\xdd":
            return frame[20], 54
    return 0, 0


def _is_datagram(frame: bytes) -> bool:
    return _transport(frame)[0] == 17


def _begins(frame: bytes) -> bool:
    """The first packet of a connection of TCP: SYN without ACK."""
    protocol, start = _transport(frame)
    return protocol == 6 and len(frame) > start + 13 and frame[start + 13] & 0x12 == 0x02


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main(names: Sequence[str]) -> None:
    with contextlib.suppress(PermissionError):  # where others compute meanwhile, a cable is late by what they take
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITY))
    cables = Cables(names, random.Random(14))
    say(switches=list(names))
    cables.run()


if __name__ == "__main__":
    main(sys.argv[1:])
