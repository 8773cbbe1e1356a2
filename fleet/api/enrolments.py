"""Boards that ask to be of the fleet, and the tokens that let them in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from fleet.api.caller import FleetOfCaller
from fleet.enrolling.views import EnrolmentView, TokenView
from fleet.service.protocol import FleetService
from protos.enrolment import LONGEST_TOKEN_SECONDS, USUAL_TOKEN_SECONDS


class TokenBody(BaseModel):
    """How long the token is good."""

    model_config = ConfigDict(extra="forbid")

    life_seconds: Annotated[float, Field(gt=0, le=LONGEST_TOKEN_SECONDS, allow_inf_nan=False)] = USUAL_TOKEN_SECONDS


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["enrolment"])

    @router.get("/enrolments")
    async def list_enrolments(fleet: FleetService = Depends(of_caller)) -> list[EnrolmentView]:
        """Boards that ask to be of the fleet. Compare the fingerprint with the board's own screen."""
        return fleet.enrolments()

    @router.post("/enrolments/{board}")
    async def accept(board: str, fleet: FleetService = Depends(of_caller)) -> EnrolmentView:
        """Takes in the board of this name, id or fingerprint."""
        return await fleet.accept(board)

    @router.delete("/enrolments/{board}")
    async def reject(board: str, fleet: FleetService = Depends(of_caller)) -> EnrolmentView:
        """Shows it no more, until the coordinator starts anew."""
        return await fleet.reject(board)

    @router.get("/tokens")
    async def list_tokens(fleet: FleetService = Depends(of_caller)) -> list[TokenView]:
        """Enrolment tokens, the newest first."""
        return await fleet.tokens()

    @router.post("/tokens")
    async def new_token(body: TokenBody, fleet: FleetService = Depends(of_caller)) -> TokenView:
        """Makes a token that lets one board in, once. It is told here and never again."""
        return await fleet.new_token(body.life_seconds)

    @router.delete("/tokens/{token_id}", status_code=204)
    async def revoke_token(token_id: str, fleet: FleetService = Depends(of_caller)) -> None:
        """A token that was not used is no good any more."""
        await fleet.revoke_token(token_id)

    return router
