from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Manifest(_message.Message):
    __slots__ = ("format_version", "config", "quantization", "provenance", "parts", "text_files", "golden", "sampling")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FILES_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    config: ModelConfig
    quantization: Quantization
    provenance: Provenance
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    text_files: _containers.RepeatedCompositeFieldContainer[TextFile]
    golden: GoldenRows
    sampling: SamplingDefaults
    def __init__(self, format_version: _Optional[int] = ..., config: _Optional[_Union[ModelConfig, _Mapping]] = ..., quantization: _Optional[_Union[Quantization, _Mapping]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., text_files: _Optional[_Iterable[_Union[TextFile, _Mapping]]] = ..., golden: _Optional[_Union[GoldenRows, _Mapping]] = ..., sampling: _Optional[_Union[SamplingDefaults, _Mapping]] = ...) -> None: ...

class SamplingDefaults(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "typical_p")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    TYPICAL_P_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    typical_p: float
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., typical_p: _Optional[float] = ...) -> None: ...

class ModelConfig(_message.Message):
    __slots__ = ("architecture", "hidden_size", "layers", "heads", "kv_heads", "head_dim", "intermediate_size", "vocab_size", "norm_epsilon", "rope_theta", "rotary_dim", "qkv_bias", "tied_head", "max_positions", "eos_token_ids", "rotary_halves", "qk_norm", "experts", "rope_scaling", "prefix_whole", "learned_positions", "mask_token_ids", "start_token_id", "latent")
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    KV_HEADS_FIELD_NUMBER: _ClassVar[int]
    HEAD_DIM_FIELD_NUMBER: _ClassVar[int]
    INTERMEDIATE_SIZE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    NORM_EPSILON_FIELD_NUMBER: _ClassVar[int]
    ROPE_THETA_FIELD_NUMBER: _ClassVar[int]
    ROTARY_DIM_FIELD_NUMBER: _ClassVar[int]
    QKV_BIAS_FIELD_NUMBER: _ClassVar[int]
    TIED_HEAD_FIELD_NUMBER: _ClassVar[int]
    MAX_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    ROTARY_HALVES_FIELD_NUMBER: _ClassVar[int]
    QK_NORM_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    ROPE_SCALING_FIELD_NUMBER: _ClassVar[int]
    PREFIX_WHOLE_FIELD_NUMBER: _ClassVar[int]
    LEARNED_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    MASK_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    START_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LATENT_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    norm_epsilon: float
    rope_theta: float
    rotary_dim: int
    qkv_bias: bool
    tied_head: bool
    max_positions: int
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    rotary_halves: bool
    qk_norm: bool
    experts: Experts
    rope_scaling: RopeScaling
    prefix_whole: bool
    learned_positions: int
    mask_token_ids: _containers.RepeatedScalarFieldContainer[int]
    start_token_id: int
    latent: Latent
    def __init__(self, architecture: _Optional[str] = ..., hidden_size: _Optional[int] = ..., layers: _Optional[int] = ..., heads: _Optional[int] = ..., kv_heads: _Optional[int] = ..., head_dim: _Optional[int] = ..., intermediate_size: _Optional[int] = ..., vocab_size: _Optional[int] = ..., norm_epsilon: _Optional[float] = ..., rope_theta: _Optional[float] = ..., rotary_dim: _Optional[int] = ..., qkv_bias: _Optional[bool] = ..., tied_head: _Optional[bool] = ..., max_positions: _Optional[int] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., rotary_halves: _Optional[bool] = ..., qk_norm: _Optional[bool] = ..., experts: _Optional[_Union[Experts, _Mapping]] = ..., rope_scaling: _Optional[_Union[RopeScaling, _Mapping]] = ..., prefix_whole: _Optional[bool] = ..., learned_positions: _Optional[int] = ..., mask_token_ids: _Optional[_Iterable[int]] = ..., start_token_id: _Optional[int] = ..., latent: _Optional[_Union[Latent, _Mapping]] = ...) -> None: ...

class Latent(_message.Message):
    __slots__ = ("rank", "query_rank", "key_dim", "value_dim")
    RANK_FIELD_NUMBER: _ClassVar[int]
    QUERY_RANK_FIELD_NUMBER: _ClassVar[int]
    KEY_DIM_FIELD_NUMBER: _ClassVar[int]
    VALUE_DIM_FIELD_NUMBER: _ClassVar[int]
    rank: int
    query_rank: int
    key_dim: int
    value_dim: int
    def __init__(self, rank: _Optional[int] = ..., query_rank: _Optional[int] = ..., key_dim: _Optional[int] = ..., value_dim: _Optional[int] = ...) -> None: ...

class RopeScaling(_message.Message):
    __slots__ = ("kind", "frequencies", "magnitude")
    KIND_FIELD_NUMBER: _ClassVar[int]
    FREQUENCIES_FIELD_NUMBER: _ClassVar[int]
    MAGNITUDE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    frequencies: _containers.RepeatedScalarFieldContainer[float]
    magnitude: float
    def __init__(self, kind: _Optional[str] = ..., frequencies: _Optional[_Iterable[float]] = ..., magnitude: _Optional[float] = ...) -> None: ...

class Experts(_message.Message):
    __slots__ = ("first_layer", "count", "per_token", "intermediate_size", "shared_intermediate_size", "groups", "groups_per_token", "normalized", "scale")
    FIRST_LAYER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    INTERMEDIATE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SHARED_INTERMEDIATE_SIZE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    first_layer: int
    count: int
    per_token: int
    intermediate_size: int
    shared_intermediate_size: int
    groups: int
    groups_per_token: int
    normalized: bool
    scale: float
    def __init__(self, first_layer: _Optional[int] = ..., count: _Optional[int] = ..., per_token: _Optional[int] = ..., intermediate_size: _Optional[int] = ..., shared_intermediate_size: _Optional[int] = ..., groups: _Optional[int] = ..., groups_per_token: _Optional[int] = ..., normalized: _Optional[bool] = ..., scale: _Optional[float] = ...) -> None: ...

class Quantization(_message.Message):
    __slots__ = ("bits", "block_size", "symmetric", "rotated", "outer_bits")
    BITS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    SYMMETRIC_FIELD_NUMBER: _ClassVar[int]
    ROTATED_FIELD_NUMBER: _ClassVar[int]
    OUTER_BITS_FIELD_NUMBER: _ClassVar[int]
    bits: int
    block_size: int
    symmetric: bool
    rotated: bool
    outer_bits: int
    def __init__(self, bits: _Optional[int] = ..., block_size: _Optional[int] = ..., symmetric: _Optional[bool] = ..., rotated: _Optional[bool] = ..., outer_bits: _Optional[int] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("source", "license", "notice", "parameters")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    source: str
    license: str
    notice: str
    parameters: int
    def __init__(self, source: _Optional[str] = ..., license: _Optional[str] = ..., notice: _Optional[str] = ..., parameters: _Optional[int] = ...) -> None: ...

class Blob(_message.Message):
    __slots__ = ("digest", "size_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("name", "cost", "variants")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    cost: Cost
    variants: _containers.RepeatedCompositeFieldContainer[Variant]
    def __init__(self, name: _Optional[str] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., variants: _Optional[_Iterable[_Union[Variant, _Mapping]]] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("weight_bytes", "read_bytes", "macs", "kv_bytes_per_token")
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    MACS_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    weight_bytes: int
    read_bytes: int
    macs: int
    kv_bytes_per_token: int
    def __init__(self, weight_bytes: _Optional[int] = ..., read_bytes: _Optional[int] = ..., macs: _Optional[int] = ..., kv_bytes_per_token: _Optional[int] = ...) -> None: ...

class Variant(_message.Message):
    __slots__ = ("layout", "blobs", "tensors")
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    layout: str
    blobs: _containers.RepeatedCompositeFieldContainer[Blob]
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, layout: _Optional[str] = ..., blobs: _Optional[_Iterable[_Union[Blob, _Mapping]]] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "shape", "blob", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    blob: int
    offset: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., blob: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class TextFile(_message.Message):
    __slots__ = ("name", "blob")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    name: str
    blob: Blob
    def __init__(self, name: _Optional[str] = ..., blob: _Optional[_Union[Blob, _Mapping]] = ...) -> None: ...

class GoldenRows(_message.Message):
    __slots__ = ("token_ids", "scale", "blob", "logits_scale", "logits")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    LOGITS_SCALE_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    scale: float
    blob: Blob
    logits_scale: float
    logits: Blob
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., scale: _Optional[float] = ..., blob: _Optional[_Union[Blob, _Mapping]] = ..., logits_scale: _Optional[float] = ..., logits: _Optional[_Union[Blob, _Mapping]] = ...) -> None: ...
