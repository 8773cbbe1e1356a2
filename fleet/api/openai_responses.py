"""OpenAI's responses API, its text and function-call part: a face of chat completions that keeps nothing."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from device.text.calls import tools_told
from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.api.caller import FleetOfCaller
from fleet.api.closing import closing
from fleet.api.encode import line
from fleet.api.errors import CLIENT_CLOSED_REQUEST, openai_body
from fleet.api.generate import collect
from fleet.api.openai import told_unready
from fleet.api.openai_choices import ChatChoice
from fleet.api.openai_responses_reply import Event, ResponsesReply
from fleet.api.openai_responses_request import ResponsesBody, told_again
from fleet.api.resuming import Resumed, resumed_by
from fleet.api.sse import EVENTS, ClientGone, EventStream, ServerSentEvent, unless_gone
from fleet.service.protocol import FleetService
from protos.errors import FleetError, InvalidInput


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["openai"])

    @router.post("/responses", responses=EVENTS)
    async def responses(
        body: ResponsesBody, http: Request, resumed: Resumed = Depends(resumed_by), fleet: FleetService = Depends(of_caller)
    ) -> Response:
        """An answer as items, streamed or whole."""
        if resumed.tokens:
            raise InvalidInput("a stream of responses is not resumed: its events are numbered, not its tokens", advice="ask for it anew")
        request = resumed.of(body.chat().request())
        name = uuid.uuid4().hex
        choice = ChatChoice(name, 0, tools_told(request.tools), body.parallel_tool_calls is False, body.logprobs)
        reply = ResponsesReply(name, body.model, int(time.time()), told_again(body), choice)
        if body.stream:
            return EventStream(_events(fleet, request, reply), lambda error: _failed(reply, error))
        try:
            with told_unready(fleet, body.model):
                return JSONResponse(reply.whole(await unless_gone(http.receive, collect(fleet, request))))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    return router


async def _events(fleet: FleetService, request: GenerateRequest, reply: ResponsesReply) -> AsyncGenerator[ServerSentEvent]:
    opening = reply.opening()  # sent with the first token, so that an error before it still has its status
    with told_unready(fleet, request.model):
        async with closing(fleet.generate(request)) as parts:
            async for part in parts:
                told = reply.closing(part) if isinstance(part, GenerateResult) else reply.piece(part)
                for event in (*opening, *told):
                    yield _sent(event)
                opening = []


def _sent(event: Event) -> ServerSentEvent:
    return ServerSentEvent(line(event), event["type"])


def _failed(reply: ResponsesReply, error: FleetError) -> ServerSentEvent:
    return _sent(reply.failed(openai_body(error)["error"]))
