"""A plan: what is asked of the planner and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protos.decoding import DecodeMode
from protos.dtypes import KvDtype, WireDtype
from protos.ids import DeviceId

Objective = Literal["latency", "throughput", "energy"]


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
    decode: DecodeMode = "rows"


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
class Covered:
    """A stage whose weights a standby keeps; `plan` is the stage as that device would run it."""

    stage: int
    plan: StagePlan


@dataclass(frozen=True)
class Standby:
    """A spare device that keeps stages of a plan loaded and checked, to take one over when its device is lost."""

    device_id: str
    device_name: str
    covers: tuple[Covered, ...]


@dataclass(frozen=True)
class Pause:
    """Predicted for running answers, when the device of `stage` is lost."""

    stage: int
    seconds: float  # the sum of these:
    noticed_seconds: float  # until its device is left
    moved_seconds: float  # until the ring stands again
    replayed_seconds: float  # until the last rows of the caches, which the standby lacks, are made again


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
    standbys: tuple[Standby, ...] = ()
    pauses: tuple[Pause, ...] = ()  # of the stages that a standby covers
    decode: DecodeMode = "rows"

    def standby_of(self, stage: int) -> DeviceId | None:
        """The first device that stands by for it: it has the rows of its cache."""
        covering = (one for one in self.standbys if any(covered.stage == stage for covered in one.covers))
        return next((DeviceId(one.device_id) for one in covering), None)
