"""This machine's IPv4 interfaces, and which of a device's addresses they reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import ifaddr


@dataclass(frozen=True)
class Interface:
    address: str
    prefix_bits: int = 32

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network((self.address, self.prefix_bits), strict=False)

    @property
    def is_loopback(self) -> bool:
        return ipaddress.IPv4Address(self.address).is_loopback


def ipv4_interfaces() -> tuple[Interface, ...]:
    """All that exist now, loopback first."""
    found = {Interface(ip.ip, ip.network_prefix) for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)}
    return tuple(sorted(found, key=lambda one: (not one.is_loopback, one.address)))


def best_address(addresses: Iterable[str], interfaces: Sequence[Interface]) -> str | None:
    """Of a device's IPv4 addresses the one to dial: on a network of ours, else any, loopback last; ties by number.

    None when there is none that can be dialled.
    """
    candidates = []
    for text in addresses:
        try:
            address = ipaddress.IPv4Address(text)
        except ValueError:
            continue
        if not (address.is_multicast or address.is_unspecified or address.is_reserved):
            candidates.append(address)

    def rank(address: ipaddress.IPv4Address) -> tuple[int, int]:
        if address.is_loopback:
            return 2, int(address)
        return (0 if any(address in one.network for one in interfaces) else 1), int(address)

    return str(min(candidates, key=rank)) if candidates else None
