"""Whether mDNS can be used on a network interface."""

from __future__ import annotations

import ipaddress
import socket
import struct

MDNS_GROUP = "224.0.0.251"  # RFC 6762 section 3
MDNS_GROUP_6 = "ff02::fb"


def multicast_problem(address: str, index: int = 0, name: str = "") -> str | None:
    """Why mDNS cannot be used on the interface with this address, one line; None when it can.

    `index` is the interface's number, which IPv6 needs; `name` is for people.
    """
    try:
        if ipaddress.ip_address(address).version == 4:
            _try_4(address)
        else:
            _try_6(address, index)
    except (OSError, ValueError) as error:
        where = f"{name} ({address})" if name else address
        return f"mDNS is not possible on {where}: {(isinstance(error, OSError) and error.strerror) or error}"
    return None


def _try_4(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        group, own = socket.inet_aton(MDNS_GROUP), socket.inet_aton(address)
        trial.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + own)
        trial.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
        trial.bind((address, 0))


def _try_6(address: str, index: int) -> None:
    """An address that is new is not bound to before its second is over, in which the kernel looks whether another machine has it."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as trial:
        group = socket.inet_pton(socket.AF_INET6, MDNS_GROUP_6)
        trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("@I", index))
        trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        trial.bind((address, 0, 0, index if ipaddress.ip_address(address).is_link_local else 0))
