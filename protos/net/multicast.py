"""Whether mDNS can be used on a network interface."""

from __future__ import annotations

import socket

MDNS_GROUP = "224.0.0.251"  # RFC 6762 section 3


def multicast_problem(address: str) -> str | None:
    """Why mDNS cannot be used on the interface with this IPv4 address, one line; None when it can."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
            group, own = socket.inet_aton(MDNS_GROUP), socket.inet_aton(address)
            trial.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + own)
            trial.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            trial.bind((address, 0))
    except OSError as error:
        return f"mDNS is not possible on {address}: {error.strerror or error}"
    return None
