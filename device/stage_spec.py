"""What a device is asked to hold: one stage of one pipeline, as frozen data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from device.stage_programs import StagePrograms, parse_programs
from protos.chip.wire import times_of
from protos.decoding import DecodeMode, decode_mode
from protos.dtypes import KvDtype, WireDtype, kv_dtype, row_bytes, wire_dtype
from protos.errors import InvalidInput
from protos.ids import DeviceId, Digest, PipelineId, parse_device_id, parse_digest
from protos.net.transport import MESSAGE_BYTES, split_address
from protos.packing import MOST_BYTES, unpacked
from protos.physics.costs import StageCost
from protos.physics.memory import cache_capacity, cache_positions, kv_position_bytes
from protos.physics.programs import StageTimes
from protos.physics.timing import StageIdentity
from protos.v1 import device_pb2 as pb

# Of hidden rows in one microbatch: a message's limit, less room for the rest of it.
MESSAGE_ROWS_BYTES = MESSAGE_BYTES - (256 << 10)


@dataclass(frozen=True)
class StageShape:
    """See device.proto, StageShape. `capacity` is what each slot's cache holds, in positions."""

    hidden_size: int
    vocab_size: int
    first_layer: int
    stop_layer: int
    kv_heads: int
    head_dim: int
    context: int
    groups: int
    slots_per_group: int
    prefill_chunk: int
    row_multiple: int
    kv_dtype: KvDtype = "float32"
    wire_dtype: WireDtype = "float32"
    prefix_whole: bool = False
    learned_positions: int = 0
    values_are_keys: bool = False
    decode: DecodeMode = "rows"
    attention_slots: int = 0

    @property
    def capacity(self) -> int:
        return cache_capacity(self.context)

    @property
    def layers(self) -> range:
        return range(self.first_layer, self.stop_layer)

    @property
    def kv_bytes(self) -> int:
        """Of all slots at full context: keys and values, which may be the same."""
        positions = cache_positions(self.context, self.groups, self.slots_per_group)
        return len(self.layers) * positions * kv_position_bytes(self.kv_heads, self.head_dim, self.kv_dtype, self.values_are_keys)


MOST_ADDRESSES = 32  # of a next hop: each is dialled


@dataclass(frozen=True)
class NextHop:
    device: DeviceId
    addresses: tuple[str, ...]  # "host:port", in the order in which they are tried
    gateway: DeviceId | None = None  # that answers there for the device

    def led_by(self, address: str) -> NextHop:
        """The same, with this address first."""
        return replace(self, addresses=(address, *(one for one in self.addresses if one != address)))


@dataclass(frozen=True)
class PreviousHop:
    """Who may open the stream to a stage."""

    device: DeviceId
    gateway: DeviceId | None = None  # that dials for the device

    @property
    def caller(self) -> DeviceId:
        """Whose certificate is shown."""
        return self.gateway or self.device


@dataclass(frozen=True)
class DeploymentGeneration:
    deployment: str
    number: int


@dataclass(frozen=True)
class Golden:
    """See device.proto, Golden."""

    token_ids: tuple[int, ...]
    scale: float
    hidden: bytes
    tolerance: float
    layers_graph: bytes
    head_hidden: bytes = b""
    logits: bytes = b""
    logits_scale: float = 0.0
    head_tolerance: float = 0.0


@dataclass(frozen=True)
class StageSpec:
    generation: DeploymentGeneration
    pipeline: PipelineId
    manifest: Digest
    epoch: int
    stage: int
    stages: int
    parts: tuple[str, ...]
    blobs: tuple[Digest, ...]
    shape: StageShape
    graph: bytes
    head_graph: bytes
    next: NextHop | None
    cost: StageCost
    golden: Golden | None = None
    previous: PreviousHop | None = None  # None: a coordinator of the release before does not tell
    mirror_to: NextHop | None = None  # of a stage in a ring: the standby that is sent the rows of its cache
    mirror_from: PreviousHop | None = None  # of a standby: who sends them
    times: StageTimes | None = None  # for a device that is timed by programs
    programs: StagePrograms | None = None  # in the place of the graphs
    norm_graph: bytes = b""  # of a head; empty: a coordinator of the release before does not tell

    @property
    def is_head(self) -> bool:
        return self.stage == 0

    @cached_property
    def identity(self) -> StageIdentity:
        return StageIdentity(self.manifest, self.parts, self.shape.kv_dtype)

    @property
    def memory_bytes(self) -> int:
        """Weights and the whole KV cache: what admission counts."""
        return self.cost.weight_bytes + self.shape.kv_bytes


def parse_generation(message: pb.Generation) -> DeploymentGeneration:
    if not message.deployment or not message.number:
        raise InvalidInput("the call names no deployment and generation")
    return DeploymentGeneration(message.deployment, message.number)


def parse_spec(message: pb.LoadStageRequest) -> StageSpec:
    """Raises InvalidInput when the request contradicts itself."""
    try:
        blobs = tuple(parse_digest(digest) for digest in message.blobs)
        manifest = parse_digest(message.manifest_digest)
        shape = _shape(message.shape)
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    graph = unpacked(message.graph, message.graph_zlib)
    spec = StageSpec(
        generation=parse_generation(message.generation),
        pipeline=PipelineId(message.pipeline_id),
        manifest=manifest,
        epoch=message.epoch,
        stage=message.stage,
        stages=message.stages,
        parts=tuple(message.parts),
        blobs=blobs,
        shape=shape,
        graph=graph,
        head_graph=message.head_graph,
        next=_hop(message.next) if message.HasField("next") else None,
        cost=StageCost(**{name: getattr(message.cost, name) for name in StageCost.__dataclass_fields__}),
        golden=_golden(message.golden, MOST_BYTES - len(graph)) if message.HasField("golden") else None,
        previous=_previous(message.previous) if message.HasField("previous") else None,
        mirror_to=_hop(message.mirror_to) if message.HasField("mirror_to") else None,
        mirror_from=_previous(message.mirror_from) if message.HasField("mirror_from") else None,
        times=times_of(message.times) if message.HasField("times") else None,
        programs=parse_programs(message.programs, blobs, is_head=message.stage == 0) if message.HasField("programs") else None,
        norm_graph=message.norm_graph,
    )
    _check(spec)
    for hop in (spec.next, spec.mirror_to):
        for address in hop.addresses if hop else ():
            split_address(address)
    return spec


def _hop(message: pb.Hop) -> NextHop:
    addresses = tuple(dict.fromkeys([message.address, *message.addresses]))[:MOST_ADDRESSES]
    return NextHop(DeviceId(message.device_id), addresses, DeviceId(message.gateway_id) if message.gateway_id else None)


def _previous(message: pb.Hop) -> PreviousHop:
    """Raises InvalidInput."""
    try:
        return PreviousHop(parse_device_id(message.device_id), parse_device_id(message.gateway_id) if message.gateway_id else None)
    except ValueError as error:
        raise InvalidInput(f"the stage before, or the one that mirrors: {error}") from error


def _shape(message: pb.StageShape) -> StageShape:
    """Raises ValueError for a type that this program does not know."""
    plain = {name: getattr(message, name) for name in StageShape.__dataclass_fields__}
    return StageShape(
        **{
            **plain,
            "kv_dtype": kv_dtype(message.kv_dtype),
            "wire_dtype": wire_dtype(message.wire_dtype),
            "decode": decode_mode(message.decode),
        }
    )


def _golden(message: pb.Golden, most_bytes: int) -> Golden:
    plain = {name: getattr(message, name) for name in Golden.__dataclass_fields__}
    layers_graph = unpacked(message.layers_graph, message.layers_graph_zlib, most_bytes)
    return Golden(**{**plain, "token_ids": tuple(message.token_ids), "layers_graph": layers_graph})


def _golden_fits(golden: Golden, shape: StageShape) -> bool:
    tokens = len(golden.token_ids)
    boundaries = (2, len(shape.layers) + 1)
    return (
        0 < tokens <= shape.context
        and tokens % 2 == 0
        and max(golden.token_ids) < shape.vocab_size
        and len(golden.hidden) in [2 * tokens * shape.hidden_size * count for count in boundaries]
        and math.isfinite(golden.scale)
        and golden.tolerance > 0
        and _golden_head_fits(golden, shape)
    )


def _golden_head_fits(golden: Golden, shape: StageShape) -> bool:
    rows, rest = divmod(len(golden.logits), 2 * shape.vocab_size)
    sizes = not rest and len(golden.head_hidden) == 2 * rows * shape.hidden_size
    return sizes and math.isfinite(golden.logits_scale) and (not rows or golden.head_tolerance > 0)


def _check(spec: StageSpec) -> None:
    shape = spec.shape
    # A whole prefix may be sent in several messages.
    rows = shape.slots_per_group if shape.prefix_whole else max(shape.prefill_chunk, shape.slots_per_group)
    message_bytes = row_bytes(shape.hidden_size, shape.wire_dtype) * rows
    sizes = (shape.hidden_size, shape.vocab_size, shape.kv_heads, shape.head_dim, shape.context, shape.groups, shape.prefill_chunk)
    faults = {
        "no pipeline id": not spec.pipeline,
        f"stage {spec.stage} of {spec.stages}": not 0 <= spec.stage < spec.stages,
        "it has neither a graph nor programs, or both": bool(spec.graph or spec.head_graph) == (spec.programs is not None),
        "a head without its head graph, or the other way round": spec.programs is None and spec.is_head != bool(spec.head_graph),
        "no graph": spec.programs is None and not spec.graph,
        "a ring without a next hop, or a next hop without a ring": (spec.next is not None) != (spec.stages > 1),
        "no layers": not shape.layers,
        "a size is zero": not all(sizes),
        "slots per group must be even": shape.slots_per_group % 2 or not shape.slots_per_group,
        "the prefill chunk must be even": shape.prefill_chunk % 2,
        f"a step's rows take {message_bytes} bytes, {MESSAGE_ROWS_BYTES} at most": spec.stages > 1 and message_bytes > MESSAGE_ROWS_BYTES,
        "its context is longer than its learned positions": 0 < shape.learned_positions < shape.context,
        "a prefix that sees all of itself is decoded row by row": shape.decode == "pairs" and shape.prefix_whole,
        "a graph for several slots at once is for runs, and for no more than there are": shape.attention_slots
        > (shape.slots_per_group if shape.decode == "pairs" else 0),
        "rows are padded to a multiple of 1 or 2": shape.row_multiple not in (1, 2),
        "its golden rows are not of its shape": spec.golden is not None and not _golden_fits(spec.golden, shape),
    }
    for fault, found in faults.items():
        if found:
            raise InvalidInput(f"stage of {spec.pipeline or 'nothing'} refused: {fault}")
