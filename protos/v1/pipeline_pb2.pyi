from protos.v1 import telemetry_pb2 as _telemetry_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_CANCELLED: _ClassVar[FinishReason]
    FINISH_REASON_ERROR: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_CANCELLED: FinishReason
FINISH_REASON_ERROR: FinishReason

class GenerateRequest(_message.Message):
    __slots__ = ("attach", "submit", "cancel", "pause", "vocabulary")
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    attach: Attach
    submit: Submit
    cancel: Cancel
    pause: Pause
    vocabulary: Vocabulary
    def __init__(self, attach: _Optional[_Union[Attach, _Mapping]] = ..., submit: _Optional[_Union[Submit, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., pause: _Optional[_Union[Pause, _Mapping]] = ..., vocabulary: _Optional[_Union[Vocabulary, _Mapping]] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("protocol_version", "pipeline_id", "manifest_digest", "epoch", "oldest_protocol_version", "beat_milliseconds")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    BEAT_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    pipeline_id: str
    manifest_digest: str
    epoch: int
    oldest_protocol_version: int
    beat_milliseconds: int
    def __init__(self, protocol_version: _Optional[int] = ..., pipeline_id: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., epoch: _Optional[int] = ..., oldest_protocol_version: _Optional[int] = ..., beat_milliseconds: _Optional[int] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("sequence", "prompt_ids", "forced_ids", "sampling", "max_tokens", "stop_token_ids", "reuse_decoded", "prefix", "spans", "key", "most_replayed", "undrafted")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    FORCED_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    REUSE_DECODED_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    MOST_REPLAYED_FIELD_NUMBER: _ClassVar[int]
    UNDRAFTED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    prompt_ids: _containers.RepeatedScalarFieldContainer[int]
    forced_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    max_tokens: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    reuse_decoded: bool
    prefix: int
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    key: bytes
    most_replayed: int
    undrafted: bool
    def __init__(self, sequence: _Optional[int] = ..., prompt_ids: _Optional[_Iterable[int]] = ..., forced_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_tokens: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., reuse_decoded: _Optional[bool] = ..., prefix: _Optional[int] = ..., spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ..., key: _Optional[bytes] = ..., most_replayed: _Optional[int] = ..., undrafted: _Optional[bool] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("start", "anchor")
    START_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    start: int
    anchor: int
    def __init__(self, start: _Optional[int] = ..., anchor: _Optional[int] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "seed", "min_p", "repetition_penalty", "typical_p", "min_tokens", "allowed_token_ids", "bad_words", "presence_penalty", "frequency_penalty", "logit_bias", "grammar", "logprobs", "prompt_logprobs", "embedding")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    TYPICAL_P_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    BAD_WORDS_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    min_p: float
    repetition_penalty: float
    typical_p: float
    min_tokens: int
    allowed_token_ids: _containers.RepeatedScalarFieldContainer[int]
    bad_words: _containers.RepeatedCompositeFieldContainer[TokenRun]
    presence_penalty: float
    frequency_penalty: float
    logit_bias: _containers.RepeatedCompositeFieldContainer[TokenBias]
    grammar: str
    logprobs: int
    prompt_logprobs: int
    embedding: bool
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., typical_p: _Optional[float] = ..., min_tokens: _Optional[int] = ..., allowed_token_ids: _Optional[_Iterable[int]] = ..., bad_words: _Optional[_Iterable[_Union[TokenRun, _Mapping]]] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Iterable[_Union[TokenBias, _Mapping]]] = ..., grammar: _Optional[str] = ..., logprobs: _Optional[int] = ..., prompt_logprobs: _Optional[int] = ..., embedding: _Optional[bool] = ...) -> None: ...

class TokenRun(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class TokenBias(_message.Message):
    __slots__ = ("id", "bias")
    ID_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    id: int
    bias: float
    def __init__(self, id: _Optional[int] = ..., bias: _Optional[float] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("sequence", "keep")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    keep: bool
    def __init__(self, sequence: _Optional[int] = ..., keep: _Optional[bool] = ...) -> None: ...

class Vocabulary(_message.Message):
    __slots__ = ("first", "tokens", "special", "ends")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    first: int
    tokens: _containers.RepeatedScalarFieldContainer[bytes]
    special: _containers.RepeatedScalarFieldContainer[int]
    ends: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, first: _Optional[int] = ..., tokens: _Optional[_Iterable[bytes]] = ..., special: _Optional[_Iterable[int]] = ..., ends: _Optional[_Iterable[int]] = ...) -> None: ...

class Pause(_message.Message):
    __slots__ = ("sequence", "paused")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    paused: bool
    def __init__(self, sequence: _Optional[int] = ..., paused: _Optional[bool] = ...) -> None: ...

class GenerateEvent(_message.Message):
    __slots__ = ("attached", "tokens", "finished", "prompt_logprobs", "embeddings", "takes_beats")
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    TAKES_BEATS_FIELD_NUMBER: _ClassVar[int]
    attached: bool
    tokens: _containers.RepeatedCompositeFieldContainer[TokenEvent]
    finished: _containers.RepeatedCompositeFieldContainer[Finished]
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[PromptLogprobs]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    takes_beats: bool
    def __init__(self, attached: _Optional[bool] = ..., tokens: _Optional[_Iterable[_Union[TokenEvent, _Mapping]]] = ..., finished: _Optional[_Iterable[_Union[Finished, _Mapping]]] = ..., prompt_logprobs: _Optional[_Iterable[_Union[PromptLogprobs, _Mapping]]] = ..., embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ..., takes_beats: _Optional[bool] = ...) -> None: ...

class TokenEvent(_message.Message):
    __slots__ = ("sequence", "index", "token_id", "logprobs")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    index: int
    token_id: int
    logprobs: Logprobs
    def __init__(self, sequence: _Optional[int] = ..., index: _Optional[int] = ..., token_id: _Optional[int] = ..., logprobs: _Optional[_Union[Logprobs, _Mapping]] = ...) -> None: ...

class Logprobs(_message.Message):
    __slots__ = ("chosen", "ids", "values")
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    chosen: float
    ids: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, chosen: _Optional[float] = ..., ids: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class PromptLogprobs(_message.Message):
    __slots__ = ("sequence", "start", "rows")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    start: int
    rows: _containers.RepeatedCompositeFieldContainer[Logprobs]
    def __init__(self, sequence: _Optional[int] = ..., start: _Optional[int] = ..., rows: _Optional[_Iterable[_Union[Logprobs, _Mapping]]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("sequence", "values")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, sequence: _Optional[int] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("sequence", "reason", "timing", "usage", "failure")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    reason: FinishReason
    timing: SequenceTiming
    usage: _containers.RepeatedCompositeFieldContainer[_telemetry_pb2.StageUsage]
    failure: Failure
    def __init__(self, sequence: _Optional[int] = ..., reason: _Optional[_Union[FinishReason, str]] = ..., timing: _Optional[_Union[SequenceTiming, _Mapping]] = ..., usage: _Optional[_Iterable[_Union[_telemetry_pb2.StageUsage, _Mapping]]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "detail", "retry_after_seconds", "route")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    code: str
    detail: str
    retry_after_seconds: float
    route: Route
    def __init__(self, code: _Optional[str] = ..., detail: _Optional[str] = ..., retry_after_seconds: _Optional[float] = ..., route: _Optional[_Union[Route, _Mapping]] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("hops", "text_length")
    class Hop(_message.Message):
        __slots__ = ("device", "stage")
        DEVICE_FIELD_NUMBER: _ClassVar[int]
        STAGE_FIELD_NUMBER: _ClassVar[int]
        device: str
        stage: int
        def __init__(self, device: _Optional[str] = ..., stage: _Optional[int] = ...) -> None: ...
    HOPS_FIELD_NUMBER: _ClassVar[int]
    TEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    hops: _containers.RepeatedCompositeFieldContainer[Route.Hop]
    text_length: int
    def __init__(self, hops: _Optional[_Iterable[_Union[Route.Hop, _Mapping]]] = ..., text_length: _Optional[int] = ...) -> None: ...

class SequenceTiming(_message.Message):
    __slots__ = ("queue_seconds", "first_token_seconds", "total_seconds", "modelled_first_token_seconds", "modelled_total_seconds", "prompt_tokens", "completion_tokens", "told_tokens", "reused_tokens", "forced_prefilled", "drafted_tokens", "accepted_tokens")
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODELLED_FIRST_TOKEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODELLED_TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOLD_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REUSED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FORCED_PREFILLED_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    queue_seconds: float
    first_token_seconds: float
    total_seconds: float
    modelled_first_token_seconds: float
    modelled_total_seconds: float
    prompt_tokens: int
    completion_tokens: int
    told_tokens: int
    reused_tokens: int
    forced_prefilled: int
    drafted_tokens: int
    accepted_tokens: int
    def __init__(self, queue_seconds: _Optional[float] = ..., first_token_seconds: _Optional[float] = ..., total_seconds: _Optional[float] = ..., modelled_first_token_seconds: _Optional[float] = ..., modelled_total_seconds: _Optional[float] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., told_tokens: _Optional[int] = ..., reused_tokens: _Optional[int] = ..., forced_prefilled: _Optional[int] = ..., drafted_tokens: _Optional[int] = ..., accepted_tokens: _Optional[int] = ...) -> None: ...

class FlowMessage(_message.Message):
    __slots__ = ("open", "microbatch", "hidden_part", "beat_milliseconds")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    MICROBATCH_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_PART_FIELD_NUMBER: _ClassVar[int]
    BEAT_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    open: FlowOpen
    microbatch: Microbatch
    hidden_part: bytes
    beat_milliseconds: int
    def __init__(self, open: _Optional[_Union[FlowOpen, _Mapping]] = ..., microbatch: _Optional[_Union[Microbatch, _Mapping]] = ..., hidden_part: _Optional[bytes] = ..., beat_milliseconds: _Optional[int] = ...) -> None: ...

class FlowOpen(_message.Message):
    __slots__ = ("protocol_version", "pipeline_id", "manifest_digest", "epoch", "to_stage", "ring_id", "wire_dtype", "from_device", "oldest_protocol_version", "beat_milliseconds", "kept")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TO_STAGE_FIELD_NUMBER: _ClassVar[int]
    RING_ID_FIELD_NUMBER: _ClassVar[int]
    WIRE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    FROM_DEVICE_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    BEAT_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    pipeline_id: str
    manifest_digest: str
    epoch: int
    to_stage: int
    ring_id: str
    wire_dtype: str
    from_device: str
    oldest_protocol_version: int
    beat_milliseconds: int
    kept: _containers.RepeatedCompositeFieldContainer[KeptRows]
    def __init__(self, protocol_version: _Optional[int] = ..., pipeline_id: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., epoch: _Optional[int] = ..., to_stage: _Optional[int] = ..., ring_id: _Optional[str] = ..., wire_dtype: _Optional[str] = ..., from_device: _Optional[str] = ..., oldest_protocol_version: _Optional[int] = ..., beat_milliseconds: _Optional[int] = ..., kept: _Optional[_Iterable[_Union[KeptRows, _Mapping]]] = ...) -> None: ...

class KeptRows(_message.Message):
    __slots__ = ("key", "group", "slot", "rows")
    KEY_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    group: int
    slot: int
    rows: int
    def __init__(self, key: _Optional[bytes] = ..., group: _Optional[int] = ..., slot: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class FlowReply(_message.Message):
    __slots__ = ("accepted", "credit", "protocol_version", "oldest_protocol_version", "modelled_clock", "beat_milliseconds")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODELLED_CLOCK_FIELD_NUMBER: _ClassVar[int]
    BEAT_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    credit: int
    protocol_version: int
    oldest_protocol_version: int
    modelled_clock: float
    beat_milliseconds: int
    def __init__(self, accepted: _Optional[bool] = ..., credit: _Optional[int] = ..., protocol_version: _Optional[int] = ..., oldest_protocol_version: _Optional[int] = ..., modelled_clock: _Optional[float] = ..., beat_milliseconds: _Optional[int] = ...) -> None: ...

class Microbatch(_message.Message):
    __slots__ = ("step", "group", "prefill", "slots", "positions", "rows", "wanted", "all_wanted", "released", "swapped", "opened", "copied", "counts", "modelled_at", "hidden")
    STEP_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    ALL_WANTED_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    SWAPPED_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    COPIED_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    MODELLED_AT_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    step: int
    group: int
    prefill: bool
    slots: _containers.RepeatedScalarFieldContainer[int]
    positions: _containers.RepeatedScalarFieldContainer[int]
    rows: int
    wanted: _containers.RepeatedScalarFieldContainer[int]
    all_wanted: bool
    released: _containers.RepeatedCompositeFieldContainer[Released]
    swapped: _containers.RepeatedCompositeFieldContainer[Swapped]
    opened: _containers.RepeatedCompositeFieldContainer[Opened]
    copied: _containers.RepeatedCompositeFieldContainer[Copied]
    counts: _containers.RepeatedScalarFieldContainer[int]
    modelled_at: float
    hidden: bytes
    def __init__(self, step: _Optional[int] = ..., group: _Optional[int] = ..., prefill: _Optional[bool] = ..., slots: _Optional[_Iterable[int]] = ..., positions: _Optional[_Iterable[int]] = ..., rows: _Optional[int] = ..., wanted: _Optional[_Iterable[int]] = ..., all_wanted: _Optional[bool] = ..., released: _Optional[_Iterable[_Union[Released, _Mapping]]] = ..., swapped: _Optional[_Iterable[_Union[Swapped, _Mapping]]] = ..., opened: _Optional[_Iterable[_Union[Opened, _Mapping]]] = ..., copied: _Optional[_Iterable[_Union[Copied, _Mapping]]] = ..., counts: _Optional[_Iterable[int]] = ..., modelled_at: _Optional[float] = ..., hidden: _Optional[bytes] = ...) -> None: ...

class Released(_message.Message):
    __slots__ = ("slot", "sequence", "usage", "keep", "rows")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    sequence: int
    usage: _containers.RepeatedCompositeFieldContainer[_telemetry_pb2.StageUsage]
    keep: bool
    rows: int
    def __init__(self, slot: _Optional[int] = ..., sequence: _Optional[int] = ..., usage: _Optional[_Iterable[_Union[_telemetry_pb2.StageUsage, _Mapping]]] = ..., keep: _Optional[bool] = ..., rows: _Optional[int] = ...) -> None: ...

class Swapped(_message.Message):
    __slots__ = ("from_slot", "to_slot")
    FROM_SLOT_FIELD_NUMBER: _ClassVar[int]
    TO_SLOT_FIELD_NUMBER: _ClassVar[int]
    from_slot: int
    to_slot: int
    def __init__(self, from_slot: _Optional[int] = ..., to_slot: _Optional[int] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("slot", "sequence", "kept", "key")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    slot: int
    sequence: int
    kept: int
    key: bytes
    def __init__(self, slot: _Optional[int] = ..., sequence: _Optional[int] = ..., kept: _Optional[int] = ..., key: _Optional[bytes] = ...) -> None: ...

class Copied(_message.Message):
    __slots__ = ("from_slot", "to_slot", "rows")
    FROM_SLOT_FIELD_NUMBER: _ClassVar[int]
    TO_SLOT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    from_slot: int
    to_slot: int
    rows: int
    def __init__(self, from_slot: _Optional[int] = ..., to_slot: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class MirrorMessage(_message.Message):
    __slots__ = ("open", "rows", "forgotten")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    open: MirrorOpen
    rows: MirroredRows
    forgotten: Forgotten
    def __init__(self, open: _Optional[_Union[MirrorOpen, _Mapping]] = ..., rows: _Optional[_Union[MirroredRows, _Mapping]] = ..., forgotten: _Optional[_Union[Forgotten, _Mapping]] = ...) -> None: ...

class MirrorOpen(_message.Message):
    __slots__ = ("protocol_version", "oldest_protocol_version", "pipeline_id", "manifest_digest", "stage", "from_device")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FROM_DEVICE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    oldest_protocol_version: int
    pipeline_id: str
    manifest_digest: str
    stage: int
    from_device: str
    def __init__(self, protocol_version: _Optional[int] = ..., oldest_protocol_version: _Optional[int] = ..., pipeline_id: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., stage: _Optional[int] = ..., from_device: _Optional[str] = ...) -> None: ...

class MirroredRows(_message.Message):
    __slots__ = ("key", "start", "count", "data")
    KEY_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    start: int
    count: int
    data: bytes
    def __init__(self, key: _Optional[bytes] = ..., start: _Optional[int] = ..., count: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Forgotten(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ...) -> None: ...

class MirrorReply(_message.Message):
    __slots__ = ("protocol_version", "oldest_protocol_version")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    oldest_protocol_version: int
    def __init__(self, protocol_version: _Optional[int] = ..., oldest_protocol_version: _Optional[int] = ...) -> None: ...
