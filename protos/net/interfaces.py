"""This machine's network interfaces as they are now, and on which of their addresses mDNS is to be spoken."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import ifaddr

from protos.net.multicast import multicast_problem

_SIOCGIFFLAGS = 0x8913  # linux/sockios.h
_UP, _LOOPBACK, _RUNNING, _MULTICAST = 0x1, 0x8, 0x40, 0x1000  # linux/if.h
State = Literal["up", "no carrier", "down"]


@dataclass(frozen=True)
class Interface:
    """One address of a network interface. An IPv6 address is without its zone."""

    address: str
    prefix_bits: int = 32
    name: str = ""
    index: int = 0

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.address)

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        return ipaddress.ip_network((self.address, self.prefix_bits), strict=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.address})" if self.name else self.address


@dataclass(frozen=True)
class Adapter:
    """A network interface with all its addresses. `bridged`: it is a port of a bridge, which has the addresses in its place."""

    name: str
    index: int
    state: State = "up"
    loopback: bool = False
    bridged: bool = False
    addresses: tuple[Interface, ...] = ()
    multicast: bool = True  # loopback needs no such flag

    @property
    def why_deaf(self) -> str:
        """Why mDNS is not heard on it, though it has a network; "" where that is not so. The kernel sends without a word all the same."""
        return "" if self.multicast or self.loopback else f"{self.name} takes no multicast: ip link set {self.name} multicast on"

    @property
    def why_mute(self) -> str:
        """Why nobody can be reached through it; "" where that is not so."""
        match self.state:
            case "down":
                return f"{self.name} is down"
            case "no carrier":
                return f"{self.name} has no carrier: no cable, or no wireless network"
        return "" if self.addresses else f"{self.name} has no address"


@dataclass(frozen=True)
class Survey:
    """Where mDNS can be spoken, and what stands in the way elsewhere: lines that name the interface."""

    usable: tuple[Interface, ...] = ()
    problems: tuple[str, ...] = ()  # mDNS is refused
    mute: tuple[str, ...] = ()  # nobody can be found through these at all
    asked: tuple[Interface, ...] = ()  # every address of what was asked for and is up, whether mDNS can be spoken there or not
    own: tuple[Interface, ...] = ()  # every address that this machine has, on whatever interface

    @property
    def alone(self) -> bool:
        """No other machine hears us."""
        return all(one.ip.is_loopback for one in self.usable)

    def waits(self, asked: Sequence[str] | None) -> bool:
        """Nobody hears us, and that is news: not where loopback alone was asked for, nor where a problem says so."""
        return self.alone and (bool(self.mute) or (asked is None and not self.problems))


def why_alone(mute: Sequence[str], loopback: bool = True) -> str:
    """What there is to say of interfaces when no other machine hears us, where there is `loopback` or not even that."""
    return "; ".join(mute) or ("there is no network interface but loopback" if loopback else "there is no network interface that is up")


def refusal_of(one: Interface) -> str | None:
    """Why mDNS is not possible on it, by the kernel's word."""
    return multicast_problem(one.address, one.index, one.name)


def survey(adapters: Sequence[Adapter], asked: Sequence[str] | None, refusal: Callable[[Interface], str | None] = refusal_of) -> Survey:
    """`asked`: names or addresses of interfaces; None for all that are up. Loopback comes first, and speaks IPv4 only."""
    chosen: list[Interface] = []
    mute: list[str] = []
    missing = list(dict.fromkeys(asked or ()))
    for adapter in sorted(adapters, key=lambda one: (not one.loopback, one.index)):
        wanted = [one for one in adapter.addresses if asked is None or adapter.name in asked or one.address in asked]
        missing = [text for text in missing if text != adapter.name and all(text != one.address for one in wanted)]
        if not (adapter.loopback or adapter.bridged) and adapter.why_mute and (asked is None or wanted or adapter.name in asked):
            mute.append(adapter.why_mute)
        elif wanted and not (asked is None and (adapter.bridged or adapter.why_mute)):
            chosen += wanted
            if adapter.why_deaf:
                mute.append(adapter.why_deaf)
    deaf = {adapter.name for adapter in adapters if adapter.why_deaf}
    refusals = {one: refusal(one) for one in _speaking(chosen) if one.name not in deaf}
    problems = [problem for problem in refusals.values() if problem is not None]
    problems += [f"mDNS is not possible on {text}: no interface is called so or has that address now" for text in missing]
    return Survey(
        usable=tuple(one for one, problem in refusals.items() if problem is None),
        problems=tuple(problems),
        mute=tuple(mute),
        asked=tuple(chosen),
        # Not of ports: on a host of containers they come and go, and nobody is reached through them.
        own=tuple(one for adapter in adapters for one in adapter.addresses if not adapter.bridged),
    )


def _speaking(chosen: Sequence[Interface]) -> list[Interface]:
    """Every IPv4 address, and of each interface one for IPv6: groups of that are joined by interface."""
    six: dict[int, Interface] = {}
    for one in chosen:
        if one.ip.version == 6 and not one.ip.is_loopback:
            six.setdefault(one.index, one)
    return [one for one in chosen if one.ip.version == 4 or six.get(one.index) is one]


def read_adapters() -> tuple[Adapter, ...]:
    """All that exist now, also those that are down or have no address. About 0.3 ms."""
    addresses: dict[str, list[Interface]] = {name: [] for _, name in socket.if_nameindex()}
    indexes = {name: index for index, name in socket.if_nameindex()}
    for found in ifaddr.get_adapters():
        name = found.name.partition(":")[0]  # "eth0:1" is a second address of eth0
        for ip in found.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            if name in addresses:
                addresses[name].append(Interface(text, ip.network_prefix, name, indexes[name]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        return tuple(_adapter(name, indexes[name], tuple(found), asking) for name, found in addresses.items())


def _adapter(name: str, index: int, addresses: tuple[Interface, ...], asking: socket.socket) -> Adapter:
    try:
        answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
        flags: int = struct.unpack_from("H", answer, 16)[0]
    except OSError:  # it has just gone, or this is no Linux
        flags = _UP | _RUNNING | _MULTICAST | (_LOOPBACK if any(one.ip.is_loopback for one in addresses) else 0)
    state: State = "down" if not flags & _UP else "up" if flags & _RUNNING else "no carrier"
    bridged = os.path.exists(f"/sys/class/net/{name}/brport")
    return Adapter(name, index, state, bool(flags & _LOOPBACK), bridged, addresses, bool(flags & _MULTICAST))
