"""The state of a device: a pure function of what is wanted, observed, and the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from fleet.devices.liveness import Liveness
from fleet.devices.views import DeviceState
from protos.silence import Silence


@dataclass(frozen=True)
class ObservedDevice:
    """`heard_at`: of its last sign of life; None: never heard, or it said something that rules it out. `error`: why the last connection
    ended. `silence`: of the connection that stands, and that it is heard by; None: nobody beats on it."""

    connected: bool
    heard_at: float | None
    error: str
    described: bool = True  # it has proven who it is, once
    said_goodbye: bool = False  # discovery heard it leave, and has not heard of it since
    silence: Silence | None = None
    beats: bool = False  # itself, not only a gateway before it; while it is not connected, whether it did


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
    # Not sooner, however soon it is offline: one that is started anew says goodbye, too.
    over = observed.heard_at is None or now - observed.heard_at >= rules.offline_seconds
    gone = observed.said_goodbye and (not observed.described or (isinstance(state, Offline) and over and not wanted))
    return DevicePhase(state, forget=gone)


def _state(observed: ObservedDevice, rules: Liveness, now: float) -> DeviceCondition:
    if observed.heard_at is None:
        return Offline(observed.error)
    silence = now - observed.heard_at
    if observed.connected and observed.silence is not None and observed.silence.verdict != "well":
        return Suspect(str(observed.silence))
    if observed.connected and observed.beats:
        return Online()
    detail = f"no telemetry for {silence:.0f} s" if observed.connected else observed.error
    if silence >= (rules.gone_seconds if observed.beats else rules.offline_seconds):
        return Offline(detail)
    if not observed.connected or silence >= rules.suspect_intervals * rules.interval_seconds:
        return Suspect(detail)
    return Online()
