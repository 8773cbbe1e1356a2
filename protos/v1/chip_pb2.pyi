from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Core(_message.Message):
    __slots__ = ("name", "dataflow", "arrays", "rows", "columns", "clock_hertz", "scratchpad_bytes", "accumulator_bytes", "lanes", "float_cycles", "dram_bytes", "dram_bytes_per_second", "reachable", "burst_bytes", "dma_channels", "dma_seconds", "launch_seconds", "idle_watts", "joules_per_mac", "joules_per_float_mac", "joules_per_sram_byte", "joules_per_dram_byte", "mechanisms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATAFLOW_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_HERTZ_FIELD_NUMBER: _ClassVar[int]
    SCRATCHPAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    ACCUMULATOR_BYTES_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    FLOAT_CYCLES_FIELD_NUMBER: _ClassVar[int]
    DRAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    DRAM_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    BURST_BYTES_FIELD_NUMBER: _ClassVar[int]
    DMA_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    DMA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LAUNCH_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IDLE_WATTS_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_MAC_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_FLOAT_MAC_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_SRAM_BYTE_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_DRAM_BYTE_FIELD_NUMBER: _ClassVar[int]
    MECHANISMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    dataflow: str
    arrays: int
    rows: int
    columns: int
    clock_hertz: float
    scratchpad_bytes: int
    accumulator_bytes: int
    lanes: int
    float_cycles: int
    dram_bytes: int
    dram_bytes_per_second: float
    reachable: float
    burst_bytes: int
    dma_channels: int
    dma_seconds: float
    launch_seconds: float
    idle_watts: float
    joules_per_mac: float
    joules_per_float_mac: float
    joules_per_sram_byte: float
    joules_per_dram_byte: float
    mechanisms: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., dataflow: _Optional[str] = ..., arrays: _Optional[int] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., clock_hertz: _Optional[float] = ..., scratchpad_bytes: _Optional[int] = ..., accumulator_bytes: _Optional[int] = ..., lanes: _Optional[int] = ..., float_cycles: _Optional[int] = ..., dram_bytes: _Optional[int] = ..., dram_bytes_per_second: _Optional[float] = ..., reachable: _Optional[float] = ..., burst_bytes: _Optional[int] = ..., dma_channels: _Optional[int] = ..., dma_seconds: _Optional[float] = ..., launch_seconds: _Optional[float] = ..., idle_watts: _Optional[float] = ..., joules_per_mac: _Optional[float] = ..., joules_per_float_mac: _Optional[float] = ..., joules_per_sram_byte: _Optional[float] = ..., joules_per_dram_byte: _Optional[float] = ..., mechanisms: _Optional[_Iterable[str]] = ...) -> None: ...

class StageTimes(_message.Message):
    __slots__ = ("layers", "head")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[ProgramTime]
    head: _containers.RepeatedCompositeFieldContainer[ProgramTime]
    def __init__(self, layers: _Optional[_Iterable[_Union[ProgramTime, _Mapping]]] = ..., head: _Optional[_Iterable[_Union[ProgramTime, _Mapping]]] = ...) -> None: ...

class ProgramTime(_message.Message):
    __slots__ = ("sequences", "rows", "context", "seconds", "joules")
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    JOULES_FIELD_NUMBER: _ClassVar[int]
    sequences: int
    rows: int
    context: int
    seconds: _containers.RepeatedScalarFieldContainer[float]
    joules: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, sequences: _Optional[int] = ..., rows: _Optional[int] = ..., context: _Optional[int] = ..., seconds: _Optional[_Iterable[float]] = ..., joules: _Optional[_Iterable[float]] = ...) -> None: ...

class StagePrograms(_message.Message):
    __slots__ = ("layers", "head", "weights")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedScalarFieldContainer[str]
    head: str
    weights: _containers.RepeatedCompositeFieldContainer[StoredTensor]
    def __init__(self, layers: _Optional[_Iterable[str]] = ..., head: _Optional[str] = ..., weights: _Optional[_Iterable[_Union[StoredTensor, _Mapping]]] = ...) -> None: ...

class StoredTensor(_message.Message):
    __slots__ = ("region", "blob", "offset", "size_bytes")
    REGION_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    region: str
    blob: str
    offset: int
    size_bytes: int
    def __init__(self, region: _Optional[str] = ..., blob: _Optional[str] = ..., offset: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...
