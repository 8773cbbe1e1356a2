"""Boards that call to join: the only routes that take something from whoever has no key."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from fleet.api.rate import Rates
from fleet.enrolling.views import InvitationView, JoinRequest, MembershipView
from fleet.principal import ANYONE
from fleet.service.protocol import Fleet
from protos.errors import InvalidInput
from protos.net.addresses import joined_address

MOST_BODY_BYTES = 16 << 10
A_MINUTE_OF_ONE, A_MINUTE_OF_ALL = 30, 600  # a board asks twice to join

Hex = Annotated[str, Field(max_length=256)]


class JoinBody(BaseModel):
    """`port`: where the board's agent will answer, at the address that it calls from. The last three are hex."""

    model_config = ConfigDict(extra="forbid")

    port: Annotated[int, Field(ge=1, le=65535)]
    signing_request: Annotated[str, Field(max_length=4096)]
    nonce: Hex
    token_key: Hex
    token_signature: Hex


def routes(fleet: Fleet) -> APIRouter:
    router = APIRouter(tags=["join"])
    rates = Rates(A_MINUTE_OF_ONE, A_MINUTE_OF_ALL)

    @router.get("/join")
    async def invite(request: Request) -> InvitationView:
        """The fleet's authority, by whose hash a board knows that it has the right fleet, and a nonce for its token's key to sign."""
        rates.count(_host_of(request))
        return fleet.as_(ANYONE).invite()

    @router.post("/join")
    async def join(body: JoinBody, request: Request) -> MembershipView:
        """Takes the board in by its token; from then on the coordinator dials it."""
        host = _host_of(request)
        rates.count(host)
        fields = body.model_dump()
        return await fleet.as_(ANYONE).join(JoinRequest(joined_address(host, fields.pop("port")), **fields))

    return router


def _host_of(request: Request) -> str:
    """The address that it comes from: IPv4 as such also where IPv6 carries it. Raises InvalidInput for what has none."""
    if request.client is None:
        raise InvalidInput("nobody knows which address this comes from")
    return request.client.host.removeprefix("::ffff:")
