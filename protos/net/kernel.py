"""The kernel's own word that this machine's network has changed: at once, where asking again and again would take its time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

_LINK, _IPV4_ADDRESS, _IPV6_ADDRESS = 0x1, 0x10, 0x100  # RTMGRP_*, linux/rtnetlink.h
_BYTES = 1 << 16


@contextmanager
def told_by_kernel() -> Iterator[asyncio.Event]:
    """An event that is set whenever an interface or an address comes, goes or becomes another; never where the system does not tell.

    What has changed is not read: the messages may be too many to be kept, and one has to look in any case.
    """
    told = asyncio.Event()
    listening = _listening()
    if listening is None:
        yield told
        return
    loop = asyncio.get_running_loop()
    with listening:
        try:
            loop.add_reader(listening, _drain, listening, told)
        except NotImplementedError:  # a loop without files
            yield told
            return
        try:
            yield told
        finally:
            loop.remove_reader(listening)


def _listening() -> socket.socket | None:
    if not hasattr(socket, "AF_NETLINK"):
        return None
    try:
        listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except OSError:  # a sandbox, or too many open files
        return None
    try:
        listening.bind((0, _LINK | _IPV4_ADDRESS | _IPV6_ADDRESS))
    except OSError:
        listening.close()
        return None
    return listening


def _drain(listening: socket.socket, told: asyncio.Event) -> None:
    told.set()
    try:
        while listening.recv(_BYTES):
            pass
    except OSError:  # nothing more, or more than the kernel keeps (ENOBUFS)
        return
