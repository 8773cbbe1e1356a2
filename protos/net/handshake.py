"""TLS with whoever is at an address, for the sake of the certificate that is shown there; nothing is said over it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from protos.errors import Denied, InvalidInput, TimedOut, Unavailable
from protos.net.race import Unreached, race
from protos.net.transport import split_address


@dataclass(frozen=True)
class Shown:
    """A certificate whose key the other end has proven to hold. `names`: its DNS names, of one that the context has verified."""

    der: bytes
    names: tuple[str, ...] = ()

    async def close(self) -> None:
        """The connection is closed already."""


async def shake_hands(address: str, context: ssl.SSLContext, timeout_seconds: float, nobody: str) -> Shown:
    """What is shown at "host:port", by a handshake as `context` wants it; `nobody` is the advice where nobody listens.

    Of a name all addresses are tried, since the first may be of no use. Raises Unavailable or TimedOut when nobody answers, Denied when
    who answers is not to the context's liking, InvalidInput for a bad address.
    """
    host, port = split_address(address)

    async def reach(host: str) -> Shown:
        with _explained(address, timeout_seconds, nobody):
            async with asyncio.timeout(timeout_seconds):
                _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="", ssl_shutdown_timeout=1.0)
            try:
                shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                names = (writer.get_extra_info("peercert") or {}).get("subjectAltName", ())
                return Shown(shown or b"", tuple(name for kind, name in names if kind == "DNS"))
            finally:
                writer.transport.abort()  # nothing was said: there is nothing to end in order
                await asyncio.sleep(0)

    with _explained(address, timeout_seconds, nobody):
        async with asyncio.timeout(timeout_seconds):
            hosts = await _hosts(host.strip("[]"), port)
    try:
        _, shown = await race(hosts, reach)
    except Unreached as unreached:
        raise unreached.as_one(lambda error, _host: error) from unreached
    return shown


async def _hosts(host: str, port: int) -> list[str]:
    """The addresses of a name, those of the link with their zone. Raises OSError, UnicodeError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    hosts = []
    for *_, place in found:
        zone = f"%{place[3]}" if len(place) == 4 and place[3] and "%" not in str(place[0]) else ""
        hosts.append(f"{place[0]}{zone}")
    return list(dict.fromkeys(hosts))


@contextlib.contextmanager
def _explained(address: str, timeout_seconds: float, nobody: str) -> Iterator[None]:
    """Makes ours of what connecting to `address` raises."""
    try:
        yield
    except UnicodeError as error:
        raise InvalidInput(f"not a host name: {address[:80]!r}", advice="write host:port, for example 192.168.1.20:7420") from error
    except ssl.SSLCertVerificationError as error:
        raise Denied(f"{address} is not of this fleet: {error.verify_message}", advice="is it another home's device?") from error
    except ssl.SSLError as error:
        raise Denied(
            f"{address} does not speak our TLS ({error.reason or 'no reason given'})", advice="is it a device, and not --insecure?"
        ) from error
    except TimeoutError as error:
        raise TimedOut(
            f"{address} did not answer within {timeout_seconds:g} s", advice="is the address right, and no firewall between?"
        ) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)  # asyncio's own text is long
        raise Unavailable(f"{address}: {reason.lower()}", advice=nobody) from error
