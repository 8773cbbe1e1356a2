from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class RelayFrame(_message.Message):
    __slots__ = ("connection", "opened", "data", "credit", "ended")
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    connection: int
    opened: bool
    data: bytes
    credit: int
    ended: bool
    def __init__(self, connection: _Optional[int] = ..., opened: _Optional[bool] = ..., data: _Optional[bytes] = ..., credit: _Optional[int] = ..., ended: _Optional[bool] = ...) -> None: ...
