from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnergySource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENERGY_SOURCE_UNMETERED: _ClassVar[EnergySource]
    ENERGY_SOURCE_MEASURED: _ClassVar[EnergySource]
    ENERGY_SOURCE_MODELLED: _ClassVar[EnergySource]
    ENERGY_SOURCE_ESTIMATED: _ClassVar[EnergySource]
ENERGY_SOURCE_UNMETERED: EnergySource
ENERGY_SOURCE_MEASURED: EnergySource
ENERGY_SOURCE_MODELLED: EnergySource
ENERGY_SOURCE_ESTIMATED: EnergySource

class TelemetrySample(_message.Message):
    __slots__ = ("device_id", "boot_id", "index", "uptime_seconds", "energy", "gauges", "pipelines", "work", "beat_milliseconds")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    GAUGES_FIELD_NUMBER: _ClassVar[int]
    PIPELINES_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    BEAT_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    boot_id: str
    index: int
    uptime_seconds: float
    energy: EnergyCounter
    gauges: Gauges
    pipelines: _containers.RepeatedCompositeFieldContainer[PipelineCounters]
    work: WorkCounter
    beat_milliseconds: int
    def __init__(self, device_id: _Optional[str] = ..., boot_id: _Optional[str] = ..., index: _Optional[int] = ..., uptime_seconds: _Optional[float] = ..., energy: _Optional[_Union[EnergyCounter, _Mapping]] = ..., gauges: _Optional[_Union[Gauges, _Mapping]] = ..., pipelines: _Optional[_Iterable[_Union[PipelineCounters, _Mapping]]] = ..., work: _Optional[_Union[WorkCounter, _Mapping]] = ..., beat_milliseconds: _Optional[int] = ...) -> None: ...

class WorkCounter(_message.Message):
    __slots__ = ("prefill_tokens", "decode_tokens", "answer_tokens", "busy_seconds", "modelled_busy_seconds", "busy_joules")
    PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DECODE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODELLED_BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BUSY_JOULES_FIELD_NUMBER: _ClassVar[int]
    prefill_tokens: int
    decode_tokens: int
    answer_tokens: int
    busy_seconds: float
    modelled_busy_seconds: float
    busy_joules: float
    def __init__(self, prefill_tokens: _Optional[int] = ..., decode_tokens: _Optional[int] = ..., answer_tokens: _Optional[int] = ..., busy_seconds: _Optional[float] = ..., modelled_busy_seconds: _Optional[float] = ..., busy_joules: _Optional[float] = ...) -> None: ...

class EnergyCounter(_message.Message):
    __slots__ = ("source", "busy_joules", "idle_joules")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    BUSY_JOULES_FIELD_NUMBER: _ClassVar[int]
    IDLE_JOULES_FIELD_NUMBER: _ClassVar[int]
    source: EnergySource
    busy_joules: float
    idle_joules: float
    def __init__(self, source: _Optional[_Union[EnergySource, str]] = ..., busy_joules: _Optional[float] = ..., idle_joules: _Optional[float] = ...) -> None: ...

class Gauges(_message.Message):
    __slots__ = ("power_watts", "temperature_celsius", "memory_used_bytes", "process_rss_bytes", "process_cpu_seconds", "throttled", "battery_fraction", "storage_problem", "memory_held_bytes")
    POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESS_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESS_CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    BATTERY_FRACTION_FIELD_NUMBER: _ClassVar[int]
    STORAGE_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    MEMORY_HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    power_watts: float
    temperature_celsius: float
    memory_used_bytes: int
    process_rss_bytes: int
    process_cpu_seconds: float
    throttled: bool
    battery_fraction: float
    storage_problem: str
    memory_held_bytes: int
    def __init__(self, power_watts: _Optional[float] = ..., temperature_celsius: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., process_rss_bytes: _Optional[int] = ..., process_cpu_seconds: _Optional[float] = ..., throttled: _Optional[bool] = ..., battery_fraction: _Optional[float] = ..., storage_problem: _Optional[str] = ..., memory_held_bytes: _Optional[int] = ...) -> None: ...

class PipelineCounters(_message.Message):
    __slots__ = ("pipeline_id", "manifest_digest", "prefill_tokens", "decode_tokens", "steps", "busy_seconds", "modelled_busy_seconds", "busy_joules", "sent_bytes", "open_sequences", "rejected_tokens", "silent_neighbours")
    PIPELINE_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DECODE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODELLED_BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BUSY_JOULES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    OPEN_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SILENT_NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    pipeline_id: str
    manifest_digest: str
    prefill_tokens: int
    decode_tokens: int
    steps: int
    busy_seconds: float
    modelled_busy_seconds: float
    busy_joules: float
    sent_bytes: int
    open_sequences: int
    rejected_tokens: int
    silent_neighbours: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, pipeline_id: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., prefill_tokens: _Optional[int] = ..., decode_tokens: _Optional[int] = ..., steps: _Optional[int] = ..., busy_seconds: _Optional[float] = ..., modelled_busy_seconds: _Optional[float] = ..., busy_joules: _Optional[float] = ..., sent_bytes: _Optional[int] = ..., open_sequences: _Optional[int] = ..., rejected_tokens: _Optional[int] = ..., silent_neighbours: _Optional[_Iterable[str]] = ...) -> None: ...

class StageUsage(_message.Message):
    __slots__ = ("device_id", "stage", "busy_seconds", "modelled_busy_seconds", "joules", "source", "prefill_rows", "decode_rows", "rejected_rows", "joules_rejected")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODELLED_BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    JOULES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PREFILL_ROWS_FIELD_NUMBER: _ClassVar[int]
    DECODE_ROWS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_ROWS_FIELD_NUMBER: _ClassVar[int]
    JOULES_REJECTED_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    stage: int
    busy_seconds: float
    modelled_busy_seconds: float
    joules: float
    source: EnergySource
    prefill_rows: int
    decode_rows: int
    rejected_rows: int
    joules_rejected: float
    def __init__(self, device_id: _Optional[str] = ..., stage: _Optional[int] = ..., busy_seconds: _Optional[float] = ..., modelled_busy_seconds: _Optional[float] = ..., joules: _Optional[float] = ..., source: _Optional[_Union[EnergySource, str]] = ..., prefill_rows: _Optional[int] = ..., decode_rows: _Optional[int] = ..., rejected_rows: _Optional[int] = ..., joules_rejected: _Optional[float] = ...) -> None: ...
