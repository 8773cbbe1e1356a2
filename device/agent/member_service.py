"""What a member answers of its own membership: its certificate's renewal, who is expelled, and its leaving."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import grpc.aio
from cryptography import x509
from cryptography.x509.oid import NameOID

from device.agent.identity import own_key, signing_request, utc_now
from device.agent.membership import renew
from protos.errors import InvalidInput
from protos.ids import DeviceId, parse_device_id
from protos.net.credentials import Credentials
from protos.rpc_errors import answered
from protos.v1 import member_pb2 as pb
from protos.v1 import member_pb2_grpc

MOST_REVOKED = 100_000

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_log = logging.getLogger(__name__)


class MemberService(member_pb2_grpc.MemberServicer):
    """Of the member whose key and certificate lie in `folder`. `left` is called when a coordinator has said that it shall leave."""

    def __init__(
        self,
        folder: Path,
        credentials: Credentials,
        left: Callable[[], None],
        clock: Callable[[], datetime] = utc_now,
        trust: Callable[[Collection[bytes]], None] | None = None,
    ) -> None:
        """`trust` pins publishers' keys; without it there is nothing to pin them for."""
        self._folder = folder
        self._credentials = credentials
        self._left = left
        self._clock = clock
        self._trust = trust

    def register(self, server: grpc.aio.Server) -> None:
        member_pb2_grpc.add_MemberServicer_to_server(self, server)

    async def Request(self, request: pb.CertificateRequest, context: _Context) -> pb.CertificateReply:  # noqa: N802
        async with answered(context):
            key = await asyncio.to_thread(own_key, self._folder)
            present = x509.load_pem_x509_certificate(self._credentials.certificate)
            (name,) = present.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            return pb.CertificateReply(
                signing_request=signing_request(key, str(name.value)),
                not_before=present.not_valid_before_utc.timestamp(),
                not_after=present.not_valid_after_utc.timestamp(),
            )

    async def Renew(self, request: pb.RenewRequest, context: _Context) -> pb.RenewReply:  # noqa: N802
        async with answered(context):
            await asyncio.to_thread(renew, self._folder, self._credentials, request.certificate, self._clock)
            return pb.RenewReply()

    async def Revoke(self, request: pb.RevokeRequest, context: _Context) -> pb.RevokeReply:  # noqa: N802
        async with answered(context):
            self._credentials.revoked.add(_ids(request.members))
            return pb.RevokeReply()

    async def Trust(self, request: pb.TrustRequest, context: _Context) -> pb.TrustReply:  # noqa: N802
        async with answered(context):
            if self._trust is not None:
                await asyncio.to_thread(self._trust, list(request.publishers))
            return pb.TrustReply()

    async def Leave(self, request: pb.LeaveRequest, context: _Context) -> pb.LeaveReply:  # noqa: N802
        async with answered(context):
            _log.warning("this member was told to leave its fleet")
            self._left()
            return pb.LeaveReply()


def _ids(members: Any) -> set[DeviceId]:
    """Raises InvalidInput."""
    if len(members) > MOST_REVOKED:
        raise InvalidInput(f"{len(members)} members; {MOST_REVOKED} at most")
    try:
        return {parse_device_id(member) for member in members}
    except ValueError as error:
        raise InvalidInput(str(error)) from error
