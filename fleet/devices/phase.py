"""The state of a device: a pure function of what is wanted, observed, and the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from fleet.devices.liveness import Liveness
from fleet.devices.views import DeviceState


@dataclass(frozen=True)
class ObservedDevice:
    """`heard_at`: of its last sample; None: never heard, or it said something that rules it out. `error`: why the last connection ended."""

    connected: bool
    heard_at: float | None
    error: str
    described: bool = True  # it has proven who it is, once
    said_goodbye: bool = False  # discovery heard it leave, and has not heard of it since


@dataclass(frozen=True)
class Online:
    detail: str = ""

    name: DeviceState = "online"


@dataclass(frozen=True)
class Suspect:
    """Silent for a moment, or its connection has just ended."""

    detail: str

    name: DeviceState = "suspect"


@dataclass(frozen=True)
class Offline:
    detail: str

    name: DeviceState = "offline"


DeviceCondition: TypeAlias = Online | Suspect | Offline


@dataclass(frozen=True)
class DevicePhase:
    """`forget`: it has gone, and nobody waits for it: a fleet that was taken down is not a fault."""

    state: DeviceCondition
    forget: bool = False


def device_phase(observed: ObservedDevice, rules: Liveness, now: float, *, wanted: bool) -> DevicePhase:
    """`wanted`: a deployment waits for it. `now` and `heard_at` are of one monotonic clock, in seconds."""
    state = _state(observed, rules, now)
    gone = observed.said_goodbye and (not observed.described or (isinstance(state, Offline) and not wanted))
    return DevicePhase(state, forget=gone)


def _state(observed: ObservedDevice, rules: Liveness, now: float) -> DeviceCondition:
    silence = None if observed.heard_at is None else now - observed.heard_at
    detail = f"no telemetry for {silence:.0f} s" if observed.connected and silence is not None else observed.error
    if silence is None or silence >= rules.offline_seconds:
        return Offline(detail)
    if not observed.connected or silence >= rules.suspect_intervals * rules.interval_seconds:
        return Suspect(detail)
    return Online()
