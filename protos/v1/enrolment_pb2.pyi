from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ApplyRequest(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class Application(_message.Message):
    __slots__ = ("protocol_version", "oldest_protocol_version", "name", "profile", "agent_version", "signing_request", "token_key", "token_signature", "returns_to")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    SIGNING_REQUEST_FIELD_NUMBER: _ClassVar[int]
    TOKEN_KEY_FIELD_NUMBER: _ClassVar[int]
    TOKEN_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    RETURNS_TO_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    oldest_protocol_version: int
    name: str
    profile: str
    agent_version: str
    signing_request: bytes
    token_key: bytes
    token_signature: bytes
    returns_to: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., oldest_protocol_version: _Optional[int] = ..., name: _Optional[str] = ..., profile: _Optional[str] = ..., agent_version: _Optional[str] = ..., signing_request: _Optional[bytes] = ..., token_key: _Optional[bytes] = ..., token_signature: _Optional[bytes] = ..., returns_to: _Optional[bytes] = ...) -> None: ...

class Membership(_message.Message):
    __slots__ = ("certificate", "authority")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    authority: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., authority: _Optional[bytes] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "authority", "signature")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Refusal.Reason]
        REASON_UNKNOWN: _ClassVar[Refusal.Reason]
        REASON_EXPIRED: _ClassVar[Refusal.Reason]
        REASON_USED: _ClassVar[Refusal.Reason]
        REASON_FORGED: _ClassVar[Refusal.Reason]
    REASON_UNSPECIFIED: Refusal.Reason
    REASON_UNKNOWN: Refusal.Reason
    REASON_EXPIRED: Refusal.Reason
    REASON_USED: Refusal.Reason
    REASON_FORGED: Refusal.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    reason: Refusal.Reason
    authority: bytes
    signature: bytes
    def __init__(self, reason: _Optional[_Union[Refusal.Reason, str]] = ..., authority: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RefuseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
