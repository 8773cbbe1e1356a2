"""Learning which device answers at an address, from its certificate alone."""

from __future__ import annotations

import ssl
import tempfile
from typing import NamedTuple

from protos.errors import Denied
from protos.ids import DeviceId, gateway_host_name, host_name
from protos.net.handshake import Shown, shake_hands
from protos.net.transport import Credentials

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
    shown = await shake_hands(address, client_context(credentials), timeout_seconds, "is the device running?")
    return _member_of(shown, address)


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


def _member_of(shown: Shown, address: str) -> ProbedMember:
    for name in shown.names:
        for suffix in (_GATEWAY_SUFFIX, _SUFFIX):  # the longer first: it ends in the other
            if name.endswith(suffix):
                return ProbedMember(DeviceId(name.removesuffix(suffix)), gateway=suffix == _GATEWAY_SUFFIX)
    raise Denied(f"{address} has a certificate of this fleet that names no device")
