"""What is kept of a request that has ended, and what a telemetry query answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

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
    rejected_rows: int = 0  # computed for drafts that were not taken
    joules_rejected: float | None = None  # of joules, their share


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
    queue_seconds: float | None = None  # wall, at the head, before its first row was computed; None: nobody told
    devices: tuple[DeviceCost, ...] = ()


@dataclass(frozen=True)
class StageShare:
    """What one stage of the ring spent on one request. Rows of the prompt and of tokens that it computed for it."""

    stage: int
    device_id: str
    device_name: str
    busy_seconds: float
    modelled_busy_seconds: float | None
    joules: float | None  # None: unmetered
    source: Source
    prefill_rows: int
    decode_rows: int


@dataclass(frozen=True)
class EndedRequest:
    """What is told of a request when it has ended, by the coordinator's clock (unix seconds). No `stages`: nobody told what it cost."""

    request_id: str
    accepted_at: float
    ended_at: float
    request: FinishedRequest
    stages: tuple[StageShare, ...] = ()
    recoveries: int = 0
    recovery_seconds: float = 0.0


class RequestObserver(Protocol):
    """Is told of each request that a ring has begun. Raises nothing, and takes no time."""

    def ended(self, ended: EndedRequest) -> None: ...


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


@dataclass(frozen=True)
class HistorySeries:
    """Of one device or the fleet, by source; a value for each interval of a History, None where nothing is known of it.

    Of several devices watts and memory are sums, the busy share is their mean, the temperature the hottest. Watts and the busy share
    of a simulated device are of its modelled time; tokens are of the wall's, each counted once however many stages computed it.
    """

    key: str  # the device's name; "fleet"
    device_id: str  # "": the fleet
    source: Source
    hollow: bool  # devices that compute nothing
    devices: tuple[int, ...]  # that were heard
    watts: tuple[float | None, ...]
    tokens_per_second: tuple[float | None, ...]
    busy_share: tuple[float | None, ...]
    temperature_celsius: tuple[float | None, ...]
    memory_bytes: tuple[int | None, ...]  # promised to stages and their caches
    joules_per_token: tuple[float | None, ...]  # busy joules per token of the answers


@dataclass(frozen=True)
class History:
    """`times`: the ends of the intervals, unix seconds by the coordinator's clock, `step_seconds` apart but for the last."""

    step_seconds: float
    times: tuple[float, ...]
    series: tuple[HistorySeries, ...]


@dataclass(frozen=True)
class PercentileSeries:
    """One figure of the requests of a model or deployment, as its source has it: seconds measured by the wall's clock or modelled, joules
    as they are. Values are in the order of the percentiles that were asked for; None where no request had the figure."""

    key: str
    figure: str  # queue_seconds, ttft_seconds, tpot_seconds, total_seconds, joules_per_token
    source: Source
    requests: int  # that had it
    whole: tuple[float | None, ...]  # of the whole period
    requests_each: tuple[int, ...]  # by interval
    values: tuple[tuple[float | None, ...], ...]  # for each percentile one of each interval


@dataclass(frozen=True)
class Percentiles:
    """`times`: the ends of the intervals, unix seconds by the coordinator's clock, `step_seconds` apart; the last may be still to come."""

    step_seconds: float
    times: tuple[float, ...]
    percentiles: tuple[float, ...]  # 0 to 100
    series: tuple[PercentileSeries, ...]
