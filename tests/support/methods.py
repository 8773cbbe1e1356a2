"""Every method of every service, from the descriptors: one that is added is tested without being named here."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import cast

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from protos import v1


@dataclass(frozen=True)
class Method:
    service: str  # "Device"
    name: str
    path: str  # "/glmfleet.v1.Device/Describe"
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool

    def __str__(self) -> str:
        return f"{self.service}.{self.name}"


def every_method() -> list[Method]:
    files = [
        cast(FileDescriptor, importlib.import_module(f"{v1.__name__}.{found.name}").DESCRIPTOR)
        for found in pkgutil.iter_modules(v1.__path__)
        if found.name.endswith("_pb2")
    ]
    return [_method(one) for file in files for service in file.services_by_name.values() for one in service.methods]


def _method(one: MethodDescriptor) -> Method:
    service = one.containing_service
    return Method(
        service.name,
        one.name,
        f"/{service.full_name}/{one.name}",
        GetMessageClass(one.input_type),
        GetMessageClass(one.output_type),
        one.client_streaming,
        one.server_streaming,
    )
