"""The certificate with which the coordinator's HTTP API answers beyond this machine: signed by the fleet's authority, renewed in place."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleet.home import write_private
from fleet.trust.authority import Authority
from protos.ids import api_host_name
from protos.net.interfaces import read_adapters

MOST_NAMES = 100  # a host of containers has hundreds of addresses
FRESH_SHARE = 2 / 3  # of its life, after which it is renewed


@dataclass(frozen=True)
class Names:
    """What a client may call the server: DNS names and addresses."""

    dns: tuple[str, ...]
    addresses: tuple[str, ...]


def names_of_this_machine(given: Sequence[str] = ()) -> Names:
    """Its host name, `localhost`, the addresses that it has now, and those that were given (DNS names or addresses)."""
    dns, addresses = ["localhost", socket.gethostname().lower()], ["127.0.0.1", "::1"]
    for text in given:
        (addresses if _is_address(text) else dns).append(text)
    with contextlib.suppress(OSError):
        addresses += [one.address for adapter in read_adapters() for one in adapter.addresses]
    return Names(tuple(dict.fromkeys(filter(_is_dns_name, dns))), tuple(dict.fromkeys(addresses))[:MOST_NAMES])


class ServerCertificate:
    """Key and certificate in a folder, and the `context` that shows them: what is renewed holds for every handshake from then on."""

    def __init__(self, authority: Authority, folder: Path, names: Names) -> None:
        """Blocks for some milliseconds. Raises InvalidInput, NoSpace when the folder cannot be written to."""
        self._authority = authority
        self._file = folder / "api.pem"
        self._names = names
        self._not_before = self._not_after = datetime.min.replace(tzinfo=UTC)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._issue()

    def refresh(self, names: Names, now: datetime) -> bool:
        """Renew it when it is in the last third of its life, or this machine is called otherwise now. Blocks. Raises as when made."""
        due = self._not_before + (self._not_after - self._not_before) * FRESH_SHARE
        if names == self._names and now < due:
            return False
        self._names = names
        self._issue()
        return True

    def _issue(self) -> None:
        # A key of its own each time: nobody pins it, and whoever gets hold of one has it for the certificate's life and no longer.
        key = ec.generate_private_key(ec.SECP256R1())
        dns = (api_host_name(self._authority.fleet_id), *self._names.dns)
        pem = self._authority.sign_server(key.public_key(), dns, self._names.addresses)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_private(self._file, private + pem + self._authority.certificate_pem)
        self.context.load_cert_chain(self._file)
        certificate = x509.load_pem_x509_certificate(pem)
        self._not_before, self._not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _is_address(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False


def _is_dns_name(text: str) -> bool:
    return text.isascii() and 0 < len(text) < 254 and all(part and len(part) < 64 for part in text.split("."))
