"""What the API and the command show of devices, gateways and how they were looked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fleet.telemetry.views import Source
from protos.recent_log import LogLine

DeviceState = Literal["online", "suspect", "offline"]
# "": it is used. What has nothing left of any deployment may be switched off.
DrainState = Literal["", "draining", "drained"]


SLACK_BYTES = 256 << 20  # what onnxruntime and gRPC keep for good, and a load takes for a moment beside its stage


@dataclass(frozen=True)
class StateChange:
    """What was believed of a device from `at` (unix seconds) on, and why, in one line. The same before: something was heard of it."""

    at: float
    before: DeviceState
    state: DeviceState
    why: str


@dataclass(frozen=True)
class LogView:
    """The last lines of a program's log, oldest first; `source`: a device's name, "" for the coordinator. Lines are counted within a
    `boot_id`, which is another after each start."""

    source: str
    boot_id: str
    lines: tuple[LogLine, ...]


@dataclass(frozen=True)
class DeviceView:
    device_id: str
    name: str
    address: str
    state: DeviceState
    simulated: bool
    profile: str
    pace: str
    memory_bytes: int
    memory_used_bytes: int  # promised to stages and their KV
    energy_source: Source
    agent_version: str
    stages: tuple[str, ...]  # "smollm2-135m stage 0 of 3: layers 0-9"
    labels: dict[str, str]
    found_by: str  # "mdns", "seed" or "memory": where it was when this coordinator, or the one before it, reached it
    detail: str = ""  # why it is not online, one line
    hollow: bool = False  # it computes nothing
    protocol_version: int = 0  # the newest that it and this coordinator speak; 0: it never answered
    gateway: str = ""  # the id of the gateway that answers for it; "": it answers itself
    # Of its last sample; None where it is not online, or does not measure that.
    power_watts: float | None = None  # mean of about a second
    temperature_celsius: float | None = None
    throttled: bool = False  # runs slower, to cool down
    battery_fraction: float | None = None
    memory_held_bytes: int | None = None  # that the device really holds for its stages; None: nothing tells
    storage_problem: str = ""  # why it can keep no more blobs, one line; "": it can
    hardware: str = ""  # what computes there, and what meters it
    history: tuple[StateChange, ...] = ()  # the last changes of its state, the latest last; of a list's devices left out
    drain: DrainState = ""
    drain_detail: str = ""  # what is still there, and why, one line
    dialect: str = ""  # what it runs: see protos/dialects.py
    core: str = ""  # of the chip whose compiled programs it is timed by, or runs; "": it has none

    @property
    def holds_too_much(self) -> bool:
        """More than it promised to its stages, and a tenth and SLACK_BYTES beyond."""
        return self.memory_held_bytes is not None and self.memory_held_bytes > self.memory_used_bytes * 1.1 + SLACK_BYTES


@dataclass(frozen=True)
class GatewayView:
    """One endpoint that answers for many devices."""

    gateway_id: str
    name: str
    address: str
    connected: bool
    devices: int  # behind it, that it has told of
    online: int  # of these
    found_by: str
    detail: str = ""  # why it is not connected, or what is wrong with what it says


@dataclass(frozen=True)
class DiscoveryReport:
    """What was tried, so an empty fleet explains itself."""

    fleet_id: str
    interfaces: tuple[str, ...]  # addresses browsed by mDNS
    seeds: tuple[str, ...]
    other_fleets: int  # adverts seen that name another fleet
    problems: tuple[str, ...]  # one line each
    gateways: tuple[GatewayView, ...] = ()
    mute: tuple[str, ...] = ()  # network interfaces through which nobody can be reached, and why: one line each
    alone: bool = False  # mDNS is to be used, and no other machine can hear it
