from protos.v1 import chip_pb2 as _chip_pb2
from protos.v1 import telemetry_pb2 as _telemetry_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReadLogRequest(_message.Message):
    __slots__ = ("after", "most")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    after: int
    most: int
    def __init__(self, after: _Optional[int] = ..., most: _Optional[int] = ...) -> None: ...

class ReadLogReply(_message.Message):
    __slots__ = ("boot_id", "lines")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    boot_id: str
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    def __init__(self, boot_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("number", "at", "level", "logger", "text")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    LOGGER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    number: int
    at: float
    level: str
    logger: str
    text: str
    def __init__(self, number: _Optional[int] = ..., at: _Optional[float] = ..., level: _Optional[str] = ..., logger: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeviceDescription(_message.Message):
    __slots__ = ("protocol_version", "device_id", "name", "agent_version", "boot_id", "accelerator", "memory_bytes", "memory_used_bytes", "storage_free_bytes", "dialects", "stages", "labels", "memory_held_bytes", "storage_droppable_bytes", "storage_problem", "oldest_protocol_version", "clock_seconds", "certificate_not_after", "memory_available_bytes", "hearing", "decodes_pairs", "keeps_standbys")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIALECTS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORAGE_DROPPABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORAGE_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLOCK_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEARING_FIELD_NUMBER: _ClassVar[int]
    DECODES_PAIRS_FIELD_NUMBER: _ClassVar[int]
    KEEPS_STANDBYS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    device_id: str
    name: str
    agent_version: str
    boot_id: str
    accelerator: Accelerator
    memory_bytes: int
    memory_used_bytes: int
    storage_free_bytes: int
    dialects: _containers.RepeatedScalarFieldContainer[str]
    stages: _containers.RepeatedCompositeFieldContainer[StageStatus]
    labels: _containers.ScalarMap[str, str]
    memory_held_bytes: int
    storage_droppable_bytes: int
    storage_problem: str
    oldest_protocol_version: int
    clock_seconds: float
    certificate_not_after: float
    memory_available_bytes: int
    hearing: Hearing
    decodes_pairs: bool
    keeps_standbys: bool
    def __init__(self, protocol_version: _Optional[int] = ..., device_id: _Optional[str] = ..., name: _Optional[str] = ..., agent_version: _Optional[str] = ..., boot_id: _Optional[str] = ..., accelerator: _Optional[_Union[Accelerator, _Mapping]] = ..., memory_bytes: _Optional[int] = ..., memory_used_bytes: _Optional[int] = ..., storage_free_bytes: _Optional[int] = ..., dialects: _Optional[_Iterable[str]] = ..., stages: _Optional[_Iterable[_Union[StageStatus, _Mapping]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., memory_held_bytes: _Optional[int] = ..., storage_droppable_bytes: _Optional[int] = ..., storage_problem: _Optional[str] = ..., oldest_protocol_version: _Optional[int] = ..., clock_seconds: _Optional[float] = ..., certificate_not_after: _Optional[float] = ..., memory_available_bytes: _Optional[int] = ..., hearing: _Optional[_Union[Hearing, _Mapping]] = ..., decodes_pairs: _Optional[bool] = ..., keeps_standbys: _Optional[bool] = ...) -> None: ...

class Hearing(_message.Message):
    __slots__ = ("queries",)
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedCompositeFieldContainer[HeardQuery]
    def __init__(self, queries: _Optional[_Iterable[_Union[HeardQuery, _Mapping]]] = ...) -> None: ...

class HeardQuery(_message.Message):
    __slots__ = ("interface", "sender", "probe", "seconds_ago")
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_AGO_FIELD_NUMBER: _ClassVar[int]
    interface: str
    sender: str
    probe: str
    seconds_ago: float
    def __init__(self, interface: _Optional[str] = ..., sender: _Optional[str] = ..., probe: _Optional[str] = ..., seconds_ago: _Optional[float] = ...) -> None: ...

class Accelerator(_message.Message):
    __slots__ = ("profile", "description", "simulated", "pace", "threads", "figures", "thermal", "energy_source", "hollow", "core", "timed_by_programs")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    PACE_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    THERMAL_FIELD_NUMBER: _ClassVar[int]
    ENERGY_SOURCE_FIELD_NUMBER: _ClassVar[int]
    HOLLOW_FIELD_NUMBER: _ClassVar[int]
    CORE_FIELD_NUMBER: _ClassVar[int]
    TIMED_BY_PROGRAMS_FIELD_NUMBER: _ClassVar[int]
    profile: str
    description: str
    simulated: bool
    pace: str
    threads: int
    figures: Figures
    thermal: Thermal
    energy_source: _telemetry_pb2.EnergySource
    hollow: bool
    core: _chip_pb2.Core
    timed_by_programs: bool
    def __init__(self, profile: _Optional[str] = ..., description: _Optional[str] = ..., simulated: _Optional[bool] = ..., pace: _Optional[str] = ..., threads: _Optional[int] = ..., figures: _Optional[_Union[Figures, _Mapping]] = ..., thermal: _Optional[_Union[Thermal, _Mapping]] = ..., energy_source: _Optional[_Union[_telemetry_pb2.EnergySource, str]] = ..., hollow: _Optional[bool] = ..., core: _Optional[_Union[_chip_pb2.Core, _Mapping]] = ..., timed_by_programs: _Optional[bool] = ...) -> None: ...

class Figures(_message.Message):
    __slots__ = ("linear_bytes_per_second", "linear_macs_per_second", "attention_bytes_per_second", "attention_macs_per_second", "chip_bytes_per_second", "launch_seconds", "operator_seconds", "idle_watts", "cap_watts", "joules_per_byte", "joules_per_chip_byte", "joules_per_mac", "joules_per_link_byte")
    LINEAR_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LINEAR_MACS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_MACS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    CHIP_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LAUNCH_SECONDS_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IDLE_WATTS_FIELD_NUMBER: _ClassVar[int]
    CAP_WATTS_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_BYTE_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_CHIP_BYTE_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_MAC_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_LINK_BYTE_FIELD_NUMBER: _ClassVar[int]
    linear_bytes_per_second: float
    linear_macs_per_second: float
    attention_bytes_per_second: float
    attention_macs_per_second: float
    chip_bytes_per_second: float
    launch_seconds: float
    operator_seconds: float
    idle_watts: float
    cap_watts: float
    joules_per_byte: float
    joules_per_chip_byte: float
    joules_per_mac: float
    joules_per_link_byte: float
    def __init__(self, linear_bytes_per_second: _Optional[float] = ..., linear_macs_per_second: _Optional[float] = ..., attention_bytes_per_second: _Optional[float] = ..., attention_macs_per_second: _Optional[float] = ..., chip_bytes_per_second: _Optional[float] = ..., launch_seconds: _Optional[float] = ..., operator_seconds: _Optional[float] = ..., idle_watts: _Optional[float] = ..., cap_watts: _Optional[float] = ..., joules_per_byte: _Optional[float] = ..., joules_per_chip_byte: _Optional[float] = ..., joules_per_mac: _Optional[float] = ..., joules_per_link_byte: _Optional[float] = ...) -> None: ...

class Thermal(_message.Message):
    __slots__ = ("kelvin_per_watt", "joules_per_kelvin", "ambient_celsius", "throttle_celsius", "resume_celsius", "throttled_speed")
    KELVIN_PER_WATT_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_KELVIN_FIELD_NUMBER: _ClassVar[int]
    AMBIENT_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    THROTTLE_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    RESUME_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_SPEED_FIELD_NUMBER: _ClassVar[int]
    kelvin_per_watt: float
    joules_per_kelvin: float
    ambient_celsius: float
    throttle_celsius: float
    resume_celsius: float
    throttled_speed: float
    def __init__(self, kelvin_per_watt: _Optional[float] = ..., joules_per_kelvin: _Optional[float] = ..., ambient_celsius: _Optional[float] = ..., throttle_celsius: _Optional[float] = ..., resume_celsius: _Optional[float] = ..., throttled_speed: _Optional[float] = ...) -> None: ...

class StageStatus(_message.Message):
    __slots__ = ("pipeline_id", "manifest_digest", "epoch", "stage", "parts", "generation", "open_sequences", "memory_bytes", "standby")
    PIPELINE_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    OPEN_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    pipeline_id: str
    manifest_digest: str
    epoch: int
    stage: int
    parts: _containers.RepeatedScalarFieldContainer[str]
    generation: Generation
    open_sequences: int
    memory_bytes: int
    standby: bool
    def __init__(self, pipeline_id: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., epoch: _Optional[int] = ..., stage: _Optional[int] = ..., parts: _Optional[_Iterable[str]] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ..., open_sequences: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., standby: _Optional[bool] = ...) -> None: ...

class Generation(_message.Message):
    __slots__ = ("deployment", "number")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    number: int
    def __init__(self, deployment: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class StatBlobsRequest(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, digests: _Optional[_Iterable[str]] = ...) -> None: ...

class BlobStat(_message.Message):
    __slots__ = ("digest", "complete", "present_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    PRESENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    complete: bool
    present_bytes: int
    def __init__(self, digest: _Optional[str] = ..., complete: _Optional[bool] = ..., present_bytes: _Optional[int] = ...) -> None: ...

class StatBlobsReply(_message.Message):
    __slots__ = ("blobs",)
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    blobs: _containers.RepeatedCompositeFieldContainer[BlobStat]
    def __init__(self, blobs: _Optional[_Iterable[_Union[BlobStat, _Mapping]]] = ...) -> None: ...

class PutManifestRequest(_message.Message):
    __slots__ = ("signed", "manifest", "manifest_zlib")
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_ZLIB_FIELD_NUMBER: _ClassVar[int]
    signed: SignedStatement
    manifest: bytes
    manifest_zlib: bytes
    def __init__(self, signed: _Optional[_Union[SignedStatement, _Mapping]] = ..., manifest: _Optional[bytes] = ..., manifest_zlib: _Optional[bytes] = ...) -> None: ...

class SignedStatement(_message.Message):
    __slots__ = ("statement", "publisher", "signature")
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    PUBLISHER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    statement: bytes
    publisher: bytes
    signature: bytes
    def __init__(self, statement: _Optional[bytes] = ..., publisher: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class PutManifestReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PutBlobRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: PutBlobHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[PutBlobHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class PutBlobHeader(_message.Message):
    __slots__ = ("digest", "size_bytes", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    offset: int
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class PutBlobReply(_message.Message):
    __slots__ = ("received_bytes",)
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    received_bytes: int
    def __init__(self, received_bytes: _Optional[int] = ...) -> None: ...

class RetainBlobsRequest(_message.Message):
    __slots__ = ("generation", "digests")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    generation: Generation
    digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, generation: _Optional[_Union[Generation, _Mapping]] = ..., digests: _Optional[_Iterable[str]] = ...) -> None: ...

class RetainBlobsReply(_message.Message):
    __slots__ = ("freed_bytes",)
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    freed_bytes: int
    def __init__(self, freed_bytes: _Optional[int] = ...) -> None: ...

class LoadStageRequest(_message.Message):
    __slots__ = ("generation", "pipeline_id", "manifest_digest", "epoch", "stage", "stages", "parts", "blobs", "shape", "graph", "head_graph", "norm_graph", "next", "cost", "golden", "previous", "graph_zlib", "standby", "mirror_to", "mirror_from", "times", "programs")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    HEAD_GRAPH_FIELD_NUMBER: _ClassVar[int]
    NORM_GRAPH_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    GRAPH_ZLIB_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    MIRROR_TO_FIELD_NUMBER: _ClassVar[int]
    MIRROR_FROM_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    PROGRAMS_FIELD_NUMBER: _ClassVar[int]
    generation: Generation
    pipeline_id: str
    manifest_digest: str
    epoch: int
    stage: int
    stages: int
    parts: _containers.RepeatedScalarFieldContainer[str]
    blobs: _containers.RepeatedScalarFieldContainer[str]
    shape: StageShape
    graph: bytes
    head_graph: bytes
    norm_graph: bytes
    next: Hop
    cost: StageCost
    golden: Golden
    previous: Hop
    graph_zlib: bytes
    standby: bool
    mirror_to: Hop
    mirror_from: Hop
    times: _chip_pb2.StageTimes
    programs: _chip_pb2.StagePrograms
    def __init__(self, generation: _Optional[_Union[Generation, _Mapping]] = ..., pipeline_id: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., epoch: _Optional[int] = ..., stage: _Optional[int] = ..., stages: _Optional[int] = ..., parts: _Optional[_Iterable[str]] = ..., blobs: _Optional[_Iterable[str]] = ..., shape: _Optional[_Union[StageShape, _Mapping]] = ..., graph: _Optional[bytes] = ..., head_graph: _Optional[bytes] = ..., norm_graph: _Optional[bytes] = ..., next: _Optional[_Union[Hop, _Mapping]] = ..., cost: _Optional[_Union[StageCost, _Mapping]] = ..., golden: _Optional[_Union[Golden, _Mapping]] = ..., previous: _Optional[_Union[Hop, _Mapping]] = ..., graph_zlib: _Optional[bytes] = ..., standby: _Optional[bool] = ..., mirror_to: _Optional[_Union[Hop, _Mapping]] = ..., mirror_from: _Optional[_Union[Hop, _Mapping]] = ..., times: _Optional[_Union[_chip_pb2.StageTimes, _Mapping]] = ..., programs: _Optional[_Union[_chip_pb2.StagePrograms, _Mapping]] = ...) -> None: ...

class Golden(_message.Message):
    __slots__ = ("token_ids", "scale", "hidden", "tolerance", "head_hidden", "logits", "logits_scale", "head_tolerance", "layers_graph_zlib", "layers_graph")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    HEAD_HIDDEN_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    LOGITS_SCALE_FIELD_NUMBER: _ClassVar[int]
    HEAD_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_GRAPH_ZLIB_FIELD_NUMBER: _ClassVar[int]
    LAYERS_GRAPH_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    scale: float
    hidden: bytes
    tolerance: float
    head_hidden: bytes
    logits: bytes
    logits_scale: float
    head_tolerance: float
    layers_graph_zlib: bytes
    layers_graph: bytes
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., scale: _Optional[float] = ..., hidden: _Optional[bytes] = ..., tolerance: _Optional[float] = ..., head_hidden: _Optional[bytes] = ..., logits: _Optional[bytes] = ..., logits_scale: _Optional[float] = ..., head_tolerance: _Optional[float] = ..., layers_graph_zlib: _Optional[bytes] = ..., layers_graph: _Optional[bytes] = ...) -> None: ...

class StageShape(_message.Message):
    __slots__ = ("hidden_size", "vocab_size", "first_layer", "stop_layer", "kv_heads", "head_dim", "context", "groups", "slots_per_group", "prefill_chunk", "row_multiple", "kv_dtype", "prefix_whole", "learned_positions", "wire_dtype", "values_are_keys", "decode", "attention_slots")
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    FIRST_LAYER_FIELD_NUMBER: _ClassVar[int]
    STOP_LAYER_FIELD_NUMBER: _ClassVar[int]
    KV_HEADS_FIELD_NUMBER: _ClassVar[int]
    HEAD_DIM_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_PER_GROUP_FIELD_NUMBER: _ClassVar[int]
    PREFILL_CHUNK_FIELD_NUMBER: _ClassVar[int]
    ROW_MULTIPLE_FIELD_NUMBER: _ClassVar[int]
    KV_DTYPE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_WHOLE_FIELD_NUMBER: _ClassVar[int]
    LEARNED_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    WIRE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    VALUES_ARE_KEYS_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_SLOTS_FIELD_NUMBER: _ClassVar[int]
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
    kv_dtype: str
    prefix_whole: bool
    learned_positions: int
    wire_dtype: str
    values_are_keys: bool
    decode: str
    attention_slots: int
    def __init__(self, hidden_size: _Optional[int] = ..., vocab_size: _Optional[int] = ..., first_layer: _Optional[int] = ..., stop_layer: _Optional[int] = ..., kv_heads: _Optional[int] = ..., head_dim: _Optional[int] = ..., context: _Optional[int] = ..., groups: _Optional[int] = ..., slots_per_group: _Optional[int] = ..., prefill_chunk: _Optional[int] = ..., row_multiple: _Optional[int] = ..., kv_dtype: _Optional[str] = ..., prefix_whole: _Optional[bool] = ..., learned_positions: _Optional[int] = ..., wire_dtype: _Optional[str] = ..., values_are_keys: _Optional[bool] = ..., decode: _Optional[str] = ..., attention_slots: _Optional[int] = ...) -> None: ...

class StageCost(_message.Message):
    __slots__ = ("weight_bytes", "read_bytes", "macs_per_row", "kv_bytes_per_token", "head_read_bytes", "head_macs_per_row", "attention_macs_per_position", "embedding_bytes_per_row", "activation_bytes_per_row", "operators", "head_activation_bytes_per_row", "head_operators")
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    MACS_PER_ROW_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    HEAD_READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEAD_MACS_PER_ROW_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_MACS_PER_POSITION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_BYTES_PER_ROW_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_BYTES_PER_ROW_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    HEAD_ACTIVATION_BYTES_PER_ROW_FIELD_NUMBER: _ClassVar[int]
    HEAD_OPERATORS_FIELD_NUMBER: _ClassVar[int]
    weight_bytes: int
    read_bytes: int
    macs_per_row: int
    kv_bytes_per_token: int
    head_read_bytes: int
    head_macs_per_row: int
    attention_macs_per_position: int
    embedding_bytes_per_row: int
    activation_bytes_per_row: int
    operators: int
    head_activation_bytes_per_row: int
    head_operators: int
    def __init__(self, weight_bytes: _Optional[int] = ..., read_bytes: _Optional[int] = ..., macs_per_row: _Optional[int] = ..., kv_bytes_per_token: _Optional[int] = ..., head_read_bytes: _Optional[int] = ..., head_macs_per_row: _Optional[int] = ..., attention_macs_per_position: _Optional[int] = ..., embedding_bytes_per_row: _Optional[int] = ..., activation_bytes_per_row: _Optional[int] = ..., operators: _Optional[int] = ..., head_activation_bytes_per_row: _Optional[int] = ..., head_operators: _Optional[int] = ...) -> None: ...

class Hop(_message.Message):
    __slots__ = ("device_id", "address", "gateway_id", "addresses")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    address: str
    gateway_id: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, device_id: _Optional[str] = ..., address: _Optional[str] = ..., gateway_id: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class LoadStageReply(_message.Message):
    __slots__ = ("memory_bytes", "load_seconds")
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    memory_bytes: int
    load_seconds: float
    def __init__(self, memory_bytes: _Optional[int] = ..., load_seconds: _Optional[float] = ...) -> None: ...

class UnloadStageRequest(_message.Message):
    __slots__ = ("generation", "pipeline_id")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_ID_FIELD_NUMBER: _ClassVar[int]
    generation: Generation
    pipeline_id: str
    def __init__(self, generation: _Optional[_Union[Generation, _Mapping]] = ..., pipeline_id: _Optional[str] = ...) -> None: ...

class UnloadStageReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchTelemetryRequest(_message.Message):
    __slots__ = ("interval_seconds", "beat_milliseconds")
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BEAT_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    interval_seconds: float
    beat_milliseconds: int
    def __init__(self, interval_seconds: _Optional[float] = ..., beat_milliseconds: _Optional[int] = ...) -> None: ...
