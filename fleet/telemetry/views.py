"""What is kept of a request that has ended, and what a telemetry query answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["unmetered", "measured", "modelled", "estimated", "none"]  # none: of a request for which no device worked
FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class DeviceCost:
    """One device's share of one request."""

    device_id: str
    device_name: str
    profile: str
    simulated: bool
    busy_seconds: float
    modelled_busy_seconds: float | None
    joules: float | None  # None: unmetered
    source: Source
    joules_per_token: float | None  # per token of the answer


@dataclass(frozen=True, kw_only=True)
class FinishedRequest:
    """What a request took and cost; nothing of what was asked or answered. Seconds per token are None with fewer than two tokens."""

    model: str
    deployment: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    ttft_seconds: float  # wall, from Submit's arrival at the head
    tpot_seconds: float | None  # wall
    modelled_ttft_seconds: float | None
    modelled_tpot_seconds: float | None
    total_seconds: float
    devices: tuple[DeviceCost, ...] = ()


@dataclass(frozen=True)
class CostRow:
    """One line of a telemetry query. Joules are None where nothing was metered, tokens where the device's agent does not count them.

    By device, tokens and busy joules are the device's own counters: rows of prompts that it computed, and rows from which a token was
    chosen. `covered_seconds`, `lost_seconds` and `partial` are as fleet.telemetry.coverage.Account has them.
    """

    key: str  # device name, model name, deployment or request id
    device_id: str
    requests: int
    prompt_tokens: int | None
    completion_tokens: int | None
    busy_seconds: float
    modelled_busy_seconds: float | None
    busy_joules: float | None
    idle_joules: float | None
    joules_per_token: float | None
    source: Source
    hollow: bool = False  # by device: it computes nothing
    covered_seconds: float | None = None  # by device
    lost_seconds: float | None = None  # by device
    partial: bool = False
