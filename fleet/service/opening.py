"""What a coordinator opens in its home before anything runs, which blocks; and what only a fleet with TLS has."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from fleet.devices.relays import Relays
from fleet.home import Home
from fleet.store.database import Store
from fleet.trust.authority import Authority
from protos.errors import InvalidInput
from protos.ids import DeviceId
from protos.net.interfaces import read_adapters
from protos.net.transport import Credentials

_T = TypeVar("_T")


def open_identity(home: Home, certificate_life: timedelta) -> tuple[Authority, Credentials]:
    """The fleet's authority, and who this coordinator is; both are made where they are not there yet."""
    authority = Authority.open(home.authority, life=certificate_life)
    authority.issue_folder(home.coordinator, "coordinator", "coordinator")
    certificate, key, signer = ((home.coordinator / name).read_bytes() for name in ("certificate.pem", "key.pem", "authority.pem"))
    return authority, Credentials(certificate, key, signer, authority.fleet_id)


def open_store(home: Home, url: str | None) -> Store:
    """The database of this URL; None: the home's file."""
    if url is not None:
        return Store(url)
    home.state_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Store(home.state_file)


def open_relays(bind: str, credentials: Credentials | None, found: Callable[[DeviceId, tuple[str, ...]], None]) -> Relays:
    """For devices that dial the coordinator at `bind`, "host:port". Raises InvalidInput for a fleet without TLS."""
    host = bind.rpartition(":")[0].strip("[]")

    def hosts() -> Sequence[str]:
        if host not in ("0.0.0.0", "::"):  # nosec B104 # nothing is bound here
            return (host,)
        own = [one.ip for adapter in read_adapters() if not (adapter.loopback or adapter.why_mute) for one in adapter.addresses]
        return [str(ip) for ip in own if not ip.is_link_local and (ip.version == 4 or host == "::") and not _is_nobody(ip)]

    return Relays(bind, of_members(credentials), hosts, found)


def _is_nobody(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return ip.is_loopback or ip.is_unspecified


def of_members(part: _T | None) -> _T:
    """What only a fleet with TLS has. Raises InvalidInput."""
    if part is None:
        raise InvalidInput("a fleet without TLS has no members: boards come and go", advice="leave --insecure out")
    return part
