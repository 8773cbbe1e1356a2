from protos.v1 import device_pb2 as _device_pb2
from protos.v1 import telemetry_pb2 as _telemetry_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchGatewayRequest(_message.Message):
    __slots__ = ("interval_seconds", "beat_milliseconds")
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BEAT_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    interval_seconds: float
    beat_milliseconds: int
    def __init__(self, interval_seconds: _Optional[float] = ..., beat_milliseconds: _Optional[int] = ...) -> None: ...

class GatewayReport(_message.Message):
    __slots__ = ("protocol_version", "name", "members", "samples", "gone", "round_complete", "oldest_protocol_version", "beat_milliseconds")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    ROUND_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    BEAT_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    name: str
    members: _containers.RepeatedCompositeFieldContainer[GatewayMember]
    samples: _containers.RepeatedCompositeFieldContainer[_telemetry_pb2.TelemetrySample]
    gone: _containers.RepeatedScalarFieldContainer[str]
    round_complete: bool
    oldest_protocol_version: int
    beat_milliseconds: int
    def __init__(self, protocol_version: _Optional[int] = ..., name: _Optional[str] = ..., members: _Optional[_Iterable[_Union[GatewayMember, _Mapping]]] = ..., samples: _Optional[_Iterable[_Union[_telemetry_pb2.TelemetrySample, _Mapping]]] = ..., gone: _Optional[_Iterable[str]] = ..., round_complete: _Optional[bool] = ..., oldest_protocol_version: _Optional[int] = ..., beat_milliseconds: _Optional[int] = ...) -> None: ...

class GatewayMember(_message.Message):
    __slots__ = ("local_name", "description")
    LOCAL_NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    local_name: str
    description: _device_pb2.DeviceDescription
    def __init__(self, local_name: _Optional[str] = ..., description: _Optional[_Union[_device_pb2.DeviceDescription, _Mapping]] = ...) -> None: ...
