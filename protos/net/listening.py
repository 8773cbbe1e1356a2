"""A socket to listen on, or one line that says why there is none: libraries say it raw, on stderr, before they fail."""

from __future__ import annotations

import errno
import os
import socket

from protos.errors import InvalidInput


def bound(host: str, port: int) -> socket.socket:
    """Port 0: any free one. Blocks while a name is looked up. Raises InvalidInput."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise InvalidInput(f"cannot listen on {host}: {error.strerror}", advice="give an address of this machine with --host") from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(1024)
    except OSError as error:
        found.close()
        raise _told(error, host, port) from error
    return found


def _told(error: OSError, host: str, port: int) -> InvalidInput:
    if error.errno == errno.EADDRINUSE:
        return InvalidInput(f"port {port} is in use", advice="choose another with --port, or --port 0 for any free one")
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidInput(f"cannot listen on {host}: it is no address of this machine", advice="give one with --host")
    if error.errno == errno.EACCES and port:
        return InvalidInput(f"port {port} is not for this user", advice="choose one from 1024 on with --port")
    return InvalidInput(
        f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}", advice="choose others with --host and --port"
    )
