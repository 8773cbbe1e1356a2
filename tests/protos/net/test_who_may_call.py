"""Every method of every service against every kind of caller, over real TLS: whom it is for gets in, all others get the right status.

Methods come from the descriptors: a new service without a line in ALLOWED fails here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protos.ids import DeviceId, host_name
from protos.net.transport import DEVICE_KEY, Credentials, serve
from tests.support.members import TestFleet, credentials_of
from tests.support.methods import Method, every_method

ALLOWED: Mapping[str, set[str]] = {
    "Device": {"coordinator"},
    "Gateway": {"coordinator"},
    "Member": {"coordinator"},
    "Enrolment": set(),  # a member is asked nothing more
    "Pipeline.Generate": {"coordinator"},
    "Pipeline.Flow": {"device", "gateway"},
    "Pipeline.Mirror": {"device", "gateway"},
}
NOW = datetime.now(UTC)
OK, DENIED, NO_LINK = "served", grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE
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
CALLERS = ["none", "another CA", "expired", "not valid yet", "self-signed", "device", "gateway", "coordinator", *ODD_NAMES]


def allowed(method: Method) -> set[str]:
    return ALLOWED[str(method)] if str(method) in ALLOWED else ALLOWED[method.service]


def signed(fleet: TestFleet, uris: list[str], first: timedelta, last: timedelta, *, by_itself: bool = False) -> Credentials:
    """A coordinator's certificate, but for its names and dates."""
    key = ec.generate_private_key(ec.SECP256R1())
    member, authority = DeviceId("b" * 16), fleet.authority
    names = [x509.UniformResourceIdentifier(uri.format(fleet=fleet.fleet_id, member=member)) for uri in uris]
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder(name if by_itself else authority.certificate.subject, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW + first)
        .not_valid_after(NOW + last)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host_name(member)), *names]), critical=True)
        .sign(key if by_itself else authority._key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credentials(certificate.public_bytes(encoding), private, authority.certificate_pem, fleet.fleet_id)


def caller(fleet: TestFleet, others: TestFleet, kind: str) -> Credentials | None:
    hour, good = timedelta(hours=1), ["glmfleet://{fleet}/coordinator/{member}"]
    match kind:
        case "none":
            return None
        case "another CA":
            return credentials_of(others.member("caller", "coordinator"))
        case "expired":
            return signed(fleet, good, -2 * hour, -hour)
        case "not valid yet":
            return signed(fleet, good, hour, 2 * hour)
        case "self-signed":
            return signed(fleet, good, -hour, hour, by_itself=True)
        case "device" | "gateway" | "coordinator" as role:
            return credentials_of(fleet.member(f"a {role}", role))
    return signed(fleet, ODD_NAMES[kind], -hour, hour)


def expected(kind: str, method: Method) -> object:
    if kind in ("none", "another CA", "expired", "not valid yet", "self-signed"):
        return NO_LINK
    return OK if kind in allowed(method) else DENIED


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


async def status(channel: grpc.aio.Channel, method: Method, device: DeviceId) -> object:
    made: Any = channel.stream_stream(method.path)
    for _ in range(3):
        call = made(iter([b""]), metadata=((DEVICE_KEY, device),), timeout=10)
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.INTERNAL:  # gRPC's own, when our message meets the end of the call (protos/net/verdict.py)
                continue
            return error.code()
        return OK
    return grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("kind", CALLERS)
async def test_who_may_call_what(tmp_path: Path, kind: str) -> None:
    fleet, others = TestFleet.open(tmp_path), TestFleet.open(tmp_path / "others")
    identity, served = fleet.member("device"), list[str]()
    me = caller(fleet, others, kind)
    async with AsyncExitStack() as stack:
        server, port = await serve("127.0.0.1:0", identity.device_id, identity.credentials, everything(served))
        stack.push_async_callback(server.stop, None)
        key, shown = (me.private_key, me.certificate) if me else (None, None)
        tls = grpc.ssl_channel_credentials(fleet.authority.certificate_pem, key, shown)
        options = [("grpc.ssl_target_name_override", host_name(identity.device_id))]
        channel = await stack.enter_async_context(grpc.aio.secure_channel(f"127.0.0.1:{port}", tls, options=options))
        found = {str(method): await status(channel, method, identity.device_id) for method in every_method()}
    assert found == {str(method): expected(kind, method) for method in every_method()}
    assert served == [str(method) for method in every_method() if expected(kind, method) == OK]


def test_each_method_is_for_somebody_or_said_to_be_for_nobody() -> None:
    methods = every_method()
    assert len(methods) >= 12
    assert {method.service for method in methods if not allowed(method)} == {"Enrolment"}
