"""Of the addresses that a device announces: which can be dialled, and which is the likeliest to be its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from protos.net.addresses import joined_address
from protos.net.interfaces import Interface

MOST = 16  # addresses of one device: each is dialled
MOST_OF_A_NETWORK = 4096


def ranked(addresses: Iterable[str], port: int, own: Sequence[Interface]) -> tuple[str, ...]:
    """As "host:port", without those that nobody can dial. `own` are this machine's.

    First what lies on a network of ours, then what may be routed to, then link-local addresses. An address that this machine has itself is
    the device's only when it runs here: a container's or hotspot's bridge has the same on every host. Loopback is last. Ties by number.
    """
    ours = {one.ip for one in own}
    networks = [one.network for one in own]

    def rank(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[int, int, int]:
        near = any(address.version == network.version and address in network for network in networks)
        place = 4 if address.is_loopback else 3 if address in ours else 2 if address.is_link_local else 0 if near else 1
        return place, address.version, int(address)

    dialable = {address for text in addresses if (address := _address(text)) is not None}
    return tuple(joined_address(str(address), port) for address in sorted(dialable, key=rank)[:MOST])


def is_near(host: str, own: Sequence[Interface]) -> bool:
    """Whether it is this machine, or on a network of ours that has so few addresses that each can be looked at."""
    address = _address(host.strip("[]"))
    if address is None:
        return False
    small = [one.network for one in own if one.network.num_addresses <= MOST_OF_A_NETWORK]
    return any(address == one.ip for one in own) or any(address.version == one.version and address in one for one in small)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        return None
    # All of ::/8 is reserved, ::1 included.
    unusable = address.is_multicast or address.is_unspecified or (address.is_reserved and not address.is_loopback)
    return None if unusable else address
