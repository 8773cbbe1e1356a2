"""What the coordinator takes and gives: frozen data that the HTTP API and the command turn into JSON and tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from device.text.messages import Message
from protos.dtypes import KvDtype, WireDtype

Objective = Literal["latency", "throughput", "energy"]
DeviceState = Literal["online", "suspect", "offline"]
Source = Literal["unmetered", "measured", "modelled", "estimated"]
FinishReason = Literal["stop", "length", "cancelled", "error"]


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
    memory_used_bytes: int
    energy_source: Source
    agent_version: str
    stages: tuple[str, ...]  # "smollm2-135m stage 0 of 3: layers 0-9"
    labels: dict[str, str]
    found_by: str  # "mdns" or "seed"
    detail: str = ""  # why it is not online, one line
    hollow: bool = False  # it computes nothing
    gateway: str = ""  # the id of the gateway that answers for it; "": it answers itself
    # Of its last sample; None where it is not online, or does not measure that.
    power_watts: float | None = None  # mean of about a second
    temperature_celsius: float | None = None
    throttled: bool = False  # runs slower, to cool down
    battery_fraction: float | None = None


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


@dataclass(frozen=True)
class ModelView:
    name: str
    digest: str
    architecture: str
    parameters: int
    layers: int
    hidden_size: int
    context: int
    bits: int
    block_size: int
    size_bytes: int
    license: str
    notice: str
    source: str
    fills_blanks: bool = False  # it has no chat


@dataclass(frozen=True)
class PlanRequest:
    model: str
    objective: Objective = "latency"
    stages: int | None = None  # None: as few devices as fit
    context: int | None = None  # positions a sequence may take; None: the model's own, at most 4096
    slots: int = 16  # sequences at once, over all groups
    devices: tuple[str, ...] = ()  # names or ids to use; empty: any
    kv_dtype: KvDtype = "float32"
    wire_dtype: WireDtype = "float32"  # of rows between stages; only float32 makes the text independent of the cut


@dataclass(frozen=True)
class StagePlan:
    """Half-open layer range [first_layer, stop_layer). Seconds and joules are predictions per decoded token of one stream."""

    device_id: str
    device_name: str
    profile: str
    simulated: bool
    first_layer: int
    stop_layer: int
    parts: tuple[str, ...]
    weight_bytes: int
    kv_bytes: int
    memory_bytes: int  # of the device, free for us
    push_bytes: int  # not on the device yet
    decode_seconds: float
    decode_joules: float | None
    hollow: bool = False  # the device computes nothing


@dataclass(frozen=True)
class Plan:
    model: str
    manifest_digest: str
    objective: Objective
    context: int
    groups: int
    slots_per_group: int
    prefill_chunk: int
    stages: tuple[StagePlan, ...]
    decode_tokens_per_second: float  # predicted, one stream
    joules_per_token: float | None
    hop_bytes: int  # one row on the wire between stages
    why: tuple[str, ...]  # one line each, for people
    kv_dtype: KvDtype = "float32"
    wire_dtype: WireDtype = "float32"


@dataclass(frozen=True)
class DeployEvent:
    """One step of a deployment; `kind` says which fields hold something."""

    kind: Literal["plan", "push", "load", "ready"]
    plan: Plan | None = None
    device_name: str = ""
    done_bytes: int = 0  # push: of what has to be sent to this device
    total_bytes: int = 0
    seconds: float = 0.0
    deployment: str = ""


@dataclass(frozen=True)
class DeploymentView:
    name: str
    model: str
    manifest_digest: str
    state: Literal["deploying", "ready", "degraded"]
    detail: str
    stages: tuple[StagePlan, ...]
    context: int
    slots: int
    generation: int


@dataclass(frozen=True)
class GenerateRequest:
    """Exactly one of `prompt` (a user's turn, through the chat template), `text` (raw, no template), `messages`, `prompt_ids`."""

    model: str | None = None
    prompt: str | None = None
    text: str | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[str, ...] = ()  # for `prompt` and `messages`: OpenAI's objects, each as JSON
    prompt_ids: tuple[int, ...] = ()
    forced_ids: tuple[int, ...] = ()
    max_tokens: int | None = None  # None: what the context leaves
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None  # None: a fresh one each time
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False  # go on behind an end-of-sequence token, to max_tokens: for measurements
    reuse_decoded: bool = False  # inexact: see Request in device/pipeline/sequences.py
    infill: bool = False  # refuse a model that fills no blanks
    fills: tuple[tuple[int, ...], ...] = ()  # of the first blanks, known already: the one behind them is filled


@dataclass(frozen=True)
class TokenChunk:
    """Text that became certain (whole UTF-8 characters, stop strings held back) and the tokens it took."""

    text: str
    token_ids: tuple[int, ...]


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


@dataclass(frozen=True)
class GenerateResult:
    model: str
    deployment: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    ttft_seconds: float  # wall, from Submit's arrival at the head
    tpot_seconds: float | None  # wall; None with fewer than two tokens
    modelled_ttft_seconds: float | None
    modelled_tpot_seconds: float | None
    total_seconds: float
    devices: tuple[DeviceCost, ...] = field(default=())
    reused_tokens: int = 0  # of the prompt, whose cache rows an earlier prompt had made


@dataclass(frozen=True)
class CostRow:
    """One line of a telemetry query. Joules are None where nothing was metered."""

    key: str  # device name, model name, deployment or request id
    device_id: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    busy_seconds: float
    modelled_busy_seconds: float | None
    busy_joules: float | None
    idle_joules: float | None
    joules_per_token: float | None
    source: Source
    hollow: bool = False  # by device: it computes nothing
