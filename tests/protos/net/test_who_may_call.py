"""Every method of every service against every kind of caller, over real TLS: whom it is for gets in, all others get the right status.

Methods come from the descriptors: a new one without a row in ALLOWED fails here. What real agents say to the same callers:
tests/device/agent/test_every_caller.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from protos.ids import host_name
from protos.net.credentials import Credentials
from protos.net.transport import serve
from tests.support.callers import STRANGERS, channel_to, signed, status, stranger
from tests.support.members import TestFleet, credentials_of
from tests.support.methods import Method, every_method

ALLOWED: Mapping[str, set[str]] = {
    "Device.Describe": {"coordinator"},
    "Device.StatBlobs": {"coordinator"},
    "Device.PutManifest": {"coordinator"},
    "Device.PutBlob": {"coordinator"},
    "Device.RetainBlobs": {"coordinator"},
    "Device.LoadStage": {"coordinator"},
    "Device.UnloadStage": {"coordinator"},
    "Device.WatchTelemetry": {"coordinator"},
    "Device.ReadLog": {"coordinator"},
    "Enrolment.Apply": set(),  # a member is asked nothing more
    "Enrolment.Join": set(),
    "Enrolment.Refuse": set(),
    "Gateway.Watch": {"coordinator"},
    "Member.Request": {"coordinator"},
    "Member.Renew": {"coordinator"},
    "Member.Revoke": {"coordinator"},
    "Member.Trust": {"coordinator"},
    "Member.Leave": {"coordinator"},
    "Pipeline.Generate": {"coordinator"},
    "Pipeline.Flow": {"device", "gateway"},
    "Relay.Carry": {"device"},
    "Pipeline.Mirror": {"device", "gateway"},
}
OK, DENIED, NO_LINK = None, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE
# The names of a certificate that our authority signed, and should not have.
ODD_NAMES: Mapping[str, list[str]] = {
    "operator": ["glmfleet://{fleet}/operator/{member}"],
    "admin": ["glmfleet://{fleet}/admin/{member}"],
    "no name": [],
    "two roles": ["glmfleet://{fleet}/device/{member}", "glmfleet://{fleet}/coordinator/{member}"],
    "another fleet": ["glmfleet://aaaaaaaaaaaaaaaa/coordinator/{member}"],
    "role in capitals": ["glmfleet://{fleet}/Coordinator/{member}"],
    "no member": ["glmfleet://{fleet}/coordinator/"],
    "more behind it": ["glmfleet://{fleet}/coordinator/{member}/x"],
    "a query": ["glmfleet://{fleet}/coordinator/{member}?x"],
    "another scheme": ["https://{fleet}/coordinator/{member}"],
    "a line more": ["glmfleet://{fleet}/coordinator/{member}\n"],
    "before it": ["x glmfleet://{fleet}/coordinator/{member}"],
    "percent": ["glmfleet://{fleet}/coordinato%72/{member}"],
    "a short id": ["glmfleet://{fleet}/coordinator/abc"],
}
MEMBERS = ("device", "gateway", "coordinator")
REVOKED = tuple(f"revoked {role}" for role in MEMBERS)


def caller(fleet: TestFleet, others: TestFleet, kind: str) -> Credentials | None:
    if kind in STRANGERS:
        return stranger(fleet, others, kind)
    match kind.removeprefix("revoked "):
        case "device" | "gateway" | "coordinator" as role:
            return credentials_of(fleet.member(f"a {role}", role))
    return signed(fleet, ODD_NAMES[kind], -timedelta(hours=1), timedelta(hours=1))


def expected(kind: str, method: Method) -> grpc.StatusCode | None:
    if kind in STRANGERS:
        return NO_LINK
    return OK if kind in ALLOWED[str(method)] else DENIED


def everything(served: list[str]) -> Any:
    """Registers all methods of all services; each writes down that it was reached."""

    def handler(method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        async def answer(_request: Any, _context: Any) -> Any:
            served.append(str(method))
            return method.response()

        async def answers(_request: Any, _context: Any) -> Any:
            served.append(str(method))
            yield method.response()

        kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            answers if method.server_streaming else answer,
            request_deserializer=method.request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def register(server: grpc.aio.Server) -> None:
        for method in every_method():
            service = method.path.split("/")[1]
            server.add_registered_method_handlers(service, {method.name: handler(method)})
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method.name: handler(method)}),))

    return register


@pytest.mark.parametrize("kind", [*STRANGERS, *MEMBERS, *REVOKED, *ODD_NAMES])
async def test_who_may_call_what(tmp_path: Path, kind: str) -> None:
    fleet, others = TestFleet.open(tmp_path), TestFleet.open(tmp_path / "others")
    identity, served = fleet.member("device"), list[str]()
    me = caller(fleet, others, kind)
    if kind in REVOKED:
        role = kind.removeprefix("revoked ")
        credentials_of(identity).revoked.add([fleet.member(f"a {role}").device_id])
    async with AsyncExitStack() as stack:
        server, port = await serve("127.0.0.1:0", identity.device_id, identity.credentials, everything(served))
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(channel_to(f"127.0.0.1:{port}", host_name(identity.device_id), fleet, me))
        found = {str(method): await status(channel, method, identity.device_id) for method in every_method()}
    assert found == {str(method): expected(kind, method) for method in every_method()}
    assert served == [str(method) for method in every_method() if expected(kind, method) == OK]


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    assert ALLOWED.keys() == {str(method) for method in every_method()}
