"""Learning which device answers at an address, from its certificate alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from protos.errors import Denied, InvalidInput, TimedOut, Unavailable
from protos.ids import DeviceId, gateway_host_name, host_name
from protos.net.race import Unreached, race
from protos.net.transport import Credentials, split_address

_SUFFIX = host_name(DeviceId(""))
_GATEWAY_SUFFIX = gateway_host_name(DeviceId(""))


class ProbedMember(NamedTuple):
    """Who answers: a device, or a gateway for those behind it."""

    device_id: DeviceId
    gateway: bool


async def probe(address: str, credentials: Credentials, timeout_seconds: float = 5.0) -> ProbedMember:
    """The device or gateway at "host:port", by a TLS handshake checked against our fleet's authority.

    Of a name all addresses are tried, since the first may be of no use. Raises Unavailable or TimedOut when nobody answers, Denied when
    who answers is neither of this fleet, InvalidInput for a bad address.
    """
    host, port = split_address(address)
    context = client_context(credentials)

    async def reach(host: str) -> _Member:
        with _explained(address, timeout_seconds):
            async with asyncio.timeout(timeout_seconds):
                _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="", ssl_shutdown_timeout=1.0)
            return _Member(writer, address)

    with _explained(address, timeout_seconds):
        async with asyncio.timeout(timeout_seconds):
            hosts = await _hosts(host.strip("[]"), port)
    try:
        _, member = await race(hosts, reach)
    except Unreached as unreached:
        raise unreached.as_one(lambda error, _host: error) from unreached
    try:
        return member.named
    finally:
        await member.close()


@dataclass(frozen=True)
class _Member:
    """Whoever has proven to be of the fleet, at the other end of a connection."""

    writer: asyncio.StreamWriter
    address: str

    @property
    def named(self) -> ProbedMember:
        """Raises Denied."""
        return _device_in(self.writer.get_extra_info("peercert"), self.address)

    async def close(self) -> None:
        self.writer.transport.abort()  # nothing was said: there is nothing to end in order, and nothing is left if we are cancelled here
        await asyncio.sleep(0)


async def _hosts(host: str, port: int) -> list[str]:
    """The addresses of a name, those of the link with their zone. Raises OSError, UnicodeError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    hosts = []
    for *_, place in found:
        zone = f"%{place[3]}" if len(place) == 4 and place[3] and "%" not in str(place[0]) else ""
        hosts.append(f"{place[0]}{zone}")
    return list(dict.fromkeys(hosts))


@contextlib.contextmanager
def _explained(address: str, timeout_seconds: float) -> Iterator[None]:
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
        raise Unavailable(f"{address}: {reason.lower()}", advice="is the device running?") from error


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """For TLS to any member of the fleet: the authority decides, not the host's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.load_verify_locations(cadata=credentials.authority.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    # The ssl module reads keys from files only: nameless ones, so that no key is left behind whatever happens.
    with tempfile.TemporaryFile() as certificate, tempfile.TemporaryFile() as key:
        for file, pem in ((certificate, credentials.certificate), (key, credentials.private_key)):
            file.write(pem)
            file.flush()
            file.seek(0)
        context.load_cert_chain(f"/dev/fd/{certificate.fileno()}", f"/dev/fd/{key.fileno()}")
    return context


def _device_in(certificate: ssl._PeerCertRetDictType | None, address: str) -> ProbedMember:
    names = cast("Sequence[tuple[str, str]]", (certificate or {}).get("subjectAltName", ()))
    for kind, name in names:
        for suffix in (_GATEWAY_SUFFIX, _SUFFIX):  # the longer first: it ends in the other
            if kind == "DNS" and name.endswith(suffix):
                return ProbedMember(DeviceId(name.removesuffix(suffix)), gateway=suffix == _GATEWAY_SUFFIX)
    raise Denied(f"{address} has a certificate of this fleet that names no device")
