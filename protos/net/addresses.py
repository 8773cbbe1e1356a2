"""Addresses as text, "host:port", and the zones that IPv6's link-local ones need."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from protos.net.interfaces import read_adapters


def joined_address(host: str, port: int) -> str:
    """ "192.168.1.20:7420", "[fd00::20]:7420"."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def address_of(where: str, port: int) -> str:
    """ "host:port" of what people write: "desk", "desk:7400", "fd00::7", "https://desk:7400/". `port` where none is said."""
    text = where.strip().removeprefix("https://").rstrip("/")
    if text.count(":") > 1 and not text.startswith("["):
        return f"[{text}]:{port}"
    return text if text.rpartition(":")[2].isdecimal() and ":" in text.rpartition("]")[2] else f"{text}:{port}"


def without_zone(address: str) -> str:
    """A zone, "%eth0", means something on one machine only: what others are told, and what is remembered, has none."""
    before, percent, after = address.partition("%")
    return before + after[after.index("]") :] if percent and "]" in after else address


def dialable(addresses: Iterable[str], zones: Sequence[str] | None = None) -> tuple[str, ...]:
    """The addresses as this machine dials them: a link-local IPv6 one without a zone once through each of `zones`.

    `zones` are names of interfaces; None: all of this machine that speak IPv6 now.
    """
    found: list[str] = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not _needs_zone(host):
            found.append(address)
            continue
        if zones is None:
            zones = _zones()
        found += [f"{host[:-1]}%{zone}]:{port}" for zone in zones]
    return tuple(dict.fromkeys(found))


def _zones() -> list[str]:
    try:
        adapters = read_adapters()
    except OSError:  # too many open files
        return []
    found = [one for one in adapters if not (one.why_mute or one.loopback or one.bridged)]
    return [adapter.name for adapter in found if any(one.ip.version == 6 and one.ip.is_link_local for one in adapter.addresses)]


def _needs_zone(host: str) -> bool:
    try:
        return host.startswith("[") and "%" not in host and ipaddress.IPv6Address(host.strip("[]")).is_link_local
    except ValueError:
        return False
