"""What a closer look at the devices has found, as figures and facts: what to make of it is for whoever reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# What became of one attempt to reach a device at one address.
Outcome = Literal[
    "answers",
    "refused",  # a machine is there, and nobody listens
    "silent",  # nothing came back
    "unreachable",  # no way there, or no machine has the address
    "unresolved",
    "hangs",  # the connection is taken, and nothing is said
    "no tls",  # somebody listens and does not speak TLS as we do
    "waits to join",  # the device's own key, and no fleet's certificate that is good
    "expired",
    "not yet valid",
    "another device",
    "another fleet",
]


@dataclass(frozen=True)
class Attempt:
    """`detail`: more of it, in a few words."""

    address: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class Multicast:
    """What became of a probe: of mDNS from us to the device, and from the device to us."""

    hears_us: bool | None = None  # None: it cannot tell
    hears_on: tuple[str, ...] = ()  # the device's interfaces
    heard: bool = False  # its answer came
    heard_on: tuple[str, ...] = ()  # our interfaces
    advertised: bool = False  # its advert was heard some time, and has not run out


@dataclass(frozen=True)
class DeviceDiagnosis:
    """None and (): not found out. Of devices behind a gateway nothing is: its own line tells of it."""

    device_id: str
    name: str
    attempts: tuple[Attempt, ...] = ()  # of one that is not connected
    clock_ahead_seconds: float | None = None  # of ours; below 0: behind
    round_trip_seconds: float | None = None  # the clock is known to half of that
    certificate_seconds: float | None = None  # that its certificate is still good, by our clock
    renewal_problem: str = ""  # why it was given no other when that was tried last, one line
    storage_free_bytes: int | None = None
    memory_available_bytes: int | None = None  # of its machine, beside what it has given to models already
    memory_promised_bytes: int | None = None  # to models that are still to come
    multicast: Multicast | None = None


@dataclass(frozen=True)
class FleetDiagnosis:
    """`version` and the certificates' `life_seconds` are the coordinator's; `probed_on`: the interfaces by which mDNS was tried."""

    version: str
    protocol: str
    life_seconds: float | None
    certificate_seconds: float | None  # the coordinator's own
    probed_on: tuple[str, ...]
    devices: tuple[DeviceDiagnosis, ...]
