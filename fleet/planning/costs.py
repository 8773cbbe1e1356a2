"""What a run of layers needs of a device and takes on it: bytes, nanoseconds, nanojoules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from fleet.planning.storage import Storage
from protos.chip.core import Core
from protos.decoding import DecodeMode
from protos.dtypes import KvDtype, WireDtype, row_bytes
from protos.even import even_down, even_up
from protos.ids import Digest
from protos.manifest import Manifest
from protos.physics.costs import StageCost
from protos.physics.memory import cache_capacity, cache_positions
from protos.physics.roofline import Figures, Roofline
from protos.physics.thermal import Thermal
from protos.physics.timing import Decode, Prefill, StageIdentity, StageRun, TimingModel
from quantize.artifact.costs import has_whole_scores, stage_cost
from quantize.parts import HEAD, layer_parts, stage_blobs

# Used where a device states no figure (0). Those of a small ARM board's CPU, so that a device which says nothing is taken for a slow one.
DEFAULTS = Figures(
    linear_bytes_per_second=8e9,
    linear_macs_per_second=50e9,
    launch_seconds=200e-6,
    idle_watts=3.0,
    joules_per_byte=8 * 7e-12,  # LPDDR4/5: about 7 pJ per bit
    joules_per_mac=0.23e-12,  # 8-bit add and multiply at 45 nm (Horowitz, ISSCC 2014)
)

# One message to the next stage: half of a gRPC round trip on loopback (about 300 us), as much again for a switched network.
HOP_SECONDS = 300e-6
LINK_BYTES_PER_SECOND = 125e6  # 1 Gbit/s

# Predictions are for a sequence of this length (its KV is read at each step): a short chat.
REFERENCE_POSITIONS = 256

PREFILL_ROWS = 256
PREFILL_MESSAGE_BYTES = 2 * 1024 * 1024  # of hidden rows in one message, half of gRPC's limit


@dataclass(frozen=True)
class PlannerDevice:
    """A device as the planner sees it. `memory_bytes` is what it has free for this plan, `figures` what it tells of its accelerator;
    `timing_model` is asked in place of the roofline by these."""

    device_id: str
    name: str
    profile: str
    simulated: bool
    memory_bytes: int
    figures: Figures = field(default_factory=Figures)
    thermal: Thermal | None = None
    hollow: bool = False  # it computes nothing
    timing_model: TimingModel | None = None
    storage: Storage | None = None  # None: its disk takes whatever it is given
    keeps_standbys: bool = False  # its agent can keep stages beside the rings that it is in
    decodes_pairs: bool = True  # False: its agent is of the release before, and decodes row by row
    core: Core | None = None  # of a chip that runs compiled programs
    timed_by_programs: bool = False  # of `core`: see fleet/planning/programs.py
    runs_programs: bool = False  # in the place of graphs

    @cached_property
    def timing(self) -> TimingModel:
        """What every prediction for this device is asked of."""
        return self.timing_model or Roofline(self.known)

    @cached_property
    def known(self) -> Figures:
        """The figures, the defaults above for those that are not told; a cache is as fast as the weights unless told otherwise."""
        told = replace(self.figures, **{name: value for name, value in vars(DEFAULTS).items() if value and not getattr(self.figures, name)})
        return replace(
            told,
            attention_bytes_per_second=told.attention_bytes_per_second or told.linear_bytes_per_second,
            attention_macs_per_second=told.attention_macs_per_second or told.linear_macs_per_second,
        )


@dataclass(frozen=True)
class PipelineShape:
    """What is reserved for sequences, the same on every stage: `groups` of `slots_per_group` slots (even), each for `context` positions.
    `prefill_chunk` is the most rows of a prompt in one run, even."""

    context: int
    groups: int
    slots_per_group: int
    prefill_chunk: int
    kv_dtype: KvDtype = "float32"


@dataclass(frozen=True)
class Need:
    """Memory of one stage, in bytes."""

    weight_bytes: int
    kv_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.activation_bytes


def shape_for(manifest: Manifest, *, stages: int, context: int, slots: int, kv_dtype: KvDtype = "float32") -> PipelineShape:
    """For at least `slots` sequences of `context` positions: as many slot groups as stages, so that every stage has one to work on, and an
    even number of slots in each."""
    per_group = max(2, even_up(-(-slots // stages)))
    rows = min(PREFILL_ROWS, PREFILL_MESSAGE_BYTES // (manifest.config.hidden_size * 4), even_up(context))
    if manifest.config.prefix_whole:  # one run, sent in as many messages as it takes
        rows = even_up(context)
    return PipelineShape(context, stages, per_group, max(2, even_down(rows)), kv_dtype)


def weights(manifest: Manifest, parts: Sequence[str]) -> dict[Digest, int]:
    """Bytes of each blob these parts read, each blob once. Raises InvalidInput."""
    return {blob.digest: blob.size_bytes for blob in stage_blobs(manifest, parts)}


def stage_need(manifest: Manifest, parts: Sequence[str], shape: PipelineShape) -> Need:
    """Of a stage of these parts: what its device counts when it is loaded, and an allowance for buffers. Raises InvalidInput."""
    cost = stage_cost(manifest, parts, shape.kv_dtype)
    return Need(
        weight_bytes=cost.weight_bytes,
        kv_bytes=cost.kv_bytes_per_token * kv_tokens(shape),
        activation_bytes=activation_bytes(manifest, shape, head=HEAD in parts),
    )


def kv_tokens(shape: PipelineShape) -> int:
    """Cache rows per layer, over all slots."""
    return cache_positions(shape.context, shape.groups, shape.slots_per_group)


def activation_bytes(manifest: Manifest, shape: PipelineShape, *, head: bool) -> int:
    """Of buffers, an allowance, fp32: for each row of the largest run the residual, its sum, two normed copies, input and output (6
    hidden), packed and rotated QKV, gate and up with their product (3 intermediate), scores of each head where all are kept at once; the
    head adds logits of one row a slot. Layers reuse one another's."""
    config = manifest.config
    rows = max(shape.prefill_chunk, shape.slots_per_group)
    row = 6 * config.hidden_size + 2 * (config.query_size + 2 * config.kv_size) + 3 * config.intermediate_size
    if config.prefix_whole:
        row += config.heads * rows
    if has_whole_scores(config, shape.kv_dtype):
        row += config.heads * cache_capacity(shape.context) + 3 * config.query_size
    return 4 * (rows * row + (shape.slots_per_group * config.vocab_size if head else 0))


def stage_run(
    manifest: Manifest,
    parts: tuple[str, ...],
    kv_dtype: KvDtype,
    body: Prefill | Decode | None = None,
    *,
    head_rows: int = 0,
    link_bytes: int = 0,
    launches: int = 1,
) -> StageRun:
    """A run of the stage of these parts, as its device will ask its timing model. Raises InvalidInput."""
    identity = StageIdentity(manifest.digest, parts, kv_dtype)
    return StageRun(stage_cost(manifest, parts, kv_dtype), body, head_rows, link_bytes, launches, identity)


def part_share(manifest: Manifest, part: str, positions: int, kv_dtype: KvDtype = "float32") -> StageRun:
    """Of one decode step of one stream whose cache holds `positions` tokens. Padding is not counted. Raises InvalidInput."""
    return stage_run(manifest, (part,), kv_dtype, Decode((positions,)), head_rows=int(part == HEAD), launches=0)


def layer_share(manifest: Manifest, layer: int, positions: int, kv_dtype: KvDtype = "float32") -> StageRun:
    """As `part_share`, of all parts of a layer."""
    return stage_run(manifest, layer_parts(manifest, layer), kv_dtype, Decode((positions,)), launches=0)


def run_ns(device: PlannerDevice, run: StageRun) -> int:
    """Nanoseconds of a run at full speed, by the device's timing model."""
    return round(1e9 * device.timing.estimate(run).seconds)


def run_nj(device: PlannerDevice, run: StageRun) -> int:
    """Dynamic energy, on top of the idle power, in nanojoules."""
    return round(1e9 * device.timing.estimate(run).joules)


def launch_ns(device: PlannerDevice) -> int:
    """Fixed cost of one run, in nanoseconds."""
    return run_ns(device, StageRun(StageCost()))


def decode_cost(
    manifest: Manifest,
    device: PlannerDevice,
    parts: tuple[str, ...],
    place: int,
    stages: int,
    positions: int,
    kv_dtype: KvDtype,
    wire_dtype: WireDtype,
    decode: DecodeMode = "rows",
) -> tuple[int, int]:
    """Nanoseconds, and nanojoules above idling, of one token of one stream on stage `place` of so many, `positions` long, none drafted."""
    sent = hop_bytes(manifest, wire_dtype) if stages > 1 else 0
    body = Decode((positions,) if decode == "rows" else (positions, positions + 1))
    run = stage_run(manifest, parts, kv_dtype, body, head_rows=int(place == 0), link_bytes=sent, launches=0)
    runs = head_runs(stages) if place == 0 else 1
    return run_ns(device, run) + runs * launch_ns(device), run_nj(device, run)


def head_runs(stages: int) -> int:
    """Runs of the head per token: in a ring its layers at the start and the output head at the end, alone both in one."""
    return 1 if stages == 1 else 2


def idle_watts(device: PlannerDevice) -> float:
    """What it draws whether it works or not."""
    return device.timing.idle_watts


def hop_bytes(manifest: Manifest, wire_dtype: WireDtype) -> int:
    """Of one hidden row between two stages."""
    return row_bytes(manifest.config.hidden_size, wire_dtype)


def hops_ns(manifest: Manifest, stages: int, wire_dtype: WireDtype) -> int:
    """One token's way round a ring; a single stage has none."""
    return 0 if stages == 1 else stages * round(1e9 * (HOP_SECONDS + hop_bytes(manifest, wire_dtype) / LINK_BYTES_PER_SECOND))
