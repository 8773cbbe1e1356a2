"""Streams of few and small messages over links that lose some: what was lost is sent again soon, and not ever later.

Each time that TCP loses the same segment again, it waits twice as long (RFC 6298, 5.5): 0.2, 0.4, 0.8, 1.6 s. Linux has an option for
streams that are too thin to crowd a link out, with fewer than four segments under way: they wait 0.2 s six times before that
(Documentation/networking/tcp-thin.rst).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

_TCP_THIN_LINEAR_TIMEOUTS = 16  # linux/tcp.h


def repeat_soon(listening: Iterable[socket.socket]) -> None:
    """For what these sockets accept from now on, which inherits the option."""
    for one in listening:
        with contextlib.suppress(OSError):
            one.setsockopt(socket.IPPROTO_TCP, _TCP_THIN_LINEAR_TIMEOUTS, 1)
