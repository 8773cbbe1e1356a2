"""Hearing what is said of our devices over mDNS, on which interface and by whom, beside those who speak it.

A probe is a question that nobody answers to, with a number in it. Who has heard it tells later, by another way, that it was heard; the
question that stands beside it, for all devices, they answer at once. So both ways are tried by one packet.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from protos.ids import SERVICE_TYPE
from protos.net.interfaces import Interface
from protos.net.multicast import MDNS_GROUP, MDNS_GROUP_6

PORT = 5353  # RFC 6762
PROBE_CHARACTERS = 16  # hexadecimal digits
_BYTES, _AT_ONCE = 9000, 64
_PKTINFO = getattr(socket, "IP_PKTINFO", 8)  # linux/in.h
_SERVICE = b"".join(bytes([len(label)]) + label.encode() for label in SERVICE_TYPE.rstrip(".").split("."))
_PROBE = re.compile(b"\\x10([0-9a-f]{16})\\x06_probe" + re.escape(_SERVICE))
_DEVICE = re.compile(b"\\x10([a-z2-7]{16})(?:[\\xc0-\\xff]|" + re.escape(_SERVICE) + b")", re.DOTALL)
_IS_ANSWER = 0x80


@dataclass(frozen=True)
class Heard:
    """One packet. `probe`: the number of one that asks; `devices`: the ids in one that answers."""

    interface: str
    sender: str
    asks: bool
    probe: str = ""
    devices: tuple[str, ...] = ()


def probe_name(number: str) -> str:
    """The name that a probe asks for."""
    return f"{number}._probe.{SERVICE_TYPE}"


def understood(packet: bytes, interface: str, sender: str) -> Heard | None:
    """None for what has nothing to do with us. Hearsay: anybody can send it, and most of the packet is not looked at."""
    lower = packet.lower()
    if len(packet) < 12 or _SERVICE not in lower:
        return None
    if packet[2] & _IS_ANSWER:
        devices = dict.fromkeys(found.decode() for found in _DEVICE.findall(lower))
        return Heard(interface, sender, asks=False, devices=tuple(devices))
    probe = _PROBE.search(lower)
    return Heard(interface, sender, asks=True, probe=probe[1].decode() if probe else "")


class Ear:
    """Tells `heard` of each packet about our devices, in the event loop. `follow` says where it listens, `close` ends it.

    Its sockets are bound to the groups: what is sent to this machine alone goes to those who speak mDNS here, as before.
    """

    def __init__(self, heard: Callable[[Heard], None]) -> None:
        self._heard = heard
        self._sockets: list[socket.socket] = []

    @property
    def listens(self) -> bool:
        return bool(self._sockets)

    def follow(self, interfaces: Sequence[Interface]) -> None:
        """Listen on these and no others; where that is refused, not."""
        self.close()
        names = {one.index: one.name for one in interfaces}
        for open_one in (_ipv4(interfaces), *(_ipv6(one) for one in interfaces if one.ip.version == 6)):
            if open_one is None:
                continue
            self._sockets.append(open_one)
            with contextlib.suppress(NotImplementedError):  # a loop without files
                asyncio.get_running_loop().add_reader(open_one, self._read, open_one, names)

    def close(self) -> None:
        for one in self._sockets:
            asyncio.get_running_loop().remove_reader(one)
            one.close()
        self._sockets = []

    def _read(self, listening: socket.socket, names: dict[int, str]) -> None:
        for _ in range(_AT_ONCE):  # then others have their turn
            try:
                packet, ancillary, _, place = listening.recvmsg(_BYTES, socket.CMSG_SPACE(64))
            except OSError:
                return
            found = understood(packet, names.get(_index(ancillary, place), ""), str(place[0]).partition("%")[0])
            if found is not None and found.interface:
                self._heard(found)


def _index(ancillary: Iterable[tuple[int, int, bytes]], place: tuple[object, ...]) -> int:
    """Of the interface that a packet came by."""
    if len(place) == 4:
        return int(str(place[3]))
    return next((struct.unpack_from("i", data)[0] for level, kind, data in ancillary if (level, kind) == (socket.IPPROTO_IP, _PKTINFO)), 0)


def _ipv4(interfaces: Sequence[Interface]) -> socket.socket | None:
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    joined = 0
    try:
        _prepare(listening)
        listening.setsockopt(socket.IPPROTO_IP, _PKTINFO, 1)
        listening.bind((MDNS_GROUP, PORT))
        for index in {one.index for one in interfaces if one.ip.version == 4}:
            with contextlib.suppress(OSError):  # it has just gone
                group = struct.pack("4s4si", socket.inet_aton(MDNS_GROUP), bytes(4), index)
                listening.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
                joined += 1
    except OSError:
        joined = 0
    if not joined:
        listening.close()
        return None
    return listening


def _ipv6(one: Interface) -> socket.socket | None:
    try:
        listening = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    except OSError:
        return None
    try:
        _prepare(listening)
        group = socket.inet_pton(socket.AF_INET6, MDNS_GROUP_6) + struct.pack("@I", one.index)
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        listening.bind((MDNS_GROUP_6, PORT, 0, one.index))
    except OSError:
        listening.close()
        return None
    return listening


def _prepare(listening: socket.socket) -> None:
    """Beside others who listen to the same, as they do."""
    listening.setblocking(False)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.suppress(OSError, AttributeError):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
