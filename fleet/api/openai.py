"""OpenAI's API (models, chat completions, completions), so that software that speaks it needs no change."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from device.text.calls import tools_told
from fleet.answering.views import GenerateRequest, TokenChunk
from fleet.api.caller import FleetOfCaller
from fleet.api.closing import closing
from fleet.api.encode import line
from fleet.api.errors import CLIENT_CLOSED_REQUEST, openai_body
from fleet.api.generate import collect
from fleet.api.openai_reply import DONE, ChatReply, TextReply, model_entry
from fleet.api.openai_request import ChatBody, CompletionBody
from fleet.api.sse import EVENTS, ClientGone, EventStream, ServerSentEvent, unless_gone
from fleet.service.protocol import FleetService
from protos.errors import FleetError, NotFound, Unavailable

Reply: TypeAlias = ChatReply | TextReply

RETRY_SECONDS = 5.0  # a deployment becomes ready in seconds to minutes


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["openai"])

    @router.get("/models")
    async def list_models(fleet: FleetService = Depends(of_caller)) -> dict[str, Any]:
        """Deployments, as models."""
        return {"object": "list", "data": [model_entry(one) for one in fleet.deployments() if one.state != "unreadable"]}

    @router.get("/models/{name:path}")
    async def show_model(name: str, fleet: FleetService = Depends(of_caller)) -> dict[str, Any]:
        """One deployment, as a model."""
        for deployment in fleet.deployments():
            if deployment.name == name and deployment.state != "unreadable":
                return model_entry(deployment)
        raise NotFound(f"no deployment {name}", advice="GET /v1/models lists them")

    @router.post("/chat/completions", responses=EVENTS)
    async def chat_completions(body: ChatBody, http: Request, fleet: FleetService = Depends(of_caller)) -> Response:
        """Chat, streamed or whole."""
        request, one_call = body.request(), body.parallel_tool_calls is False
        name = f"chatcmpl-{uuid.uuid4().hex}"
        reply = ChatReply(name, int(time.time()), body.model, body.include_usage, tools_told(request.tools), one_call)
        return await _answer(fleet, http, request, reply, bool(body.stream))

    @router.post("/completions", responses=EVENTS)
    async def completions(body: CompletionBody, http: Request, fleet: FleetService = Depends(of_caller)) -> Response:
        """Plain text continued, without a template, streamed or whole."""
        reply = TextReply(f"cmpl-{uuid.uuid4().hex}", int(time.time()), body.model, body.include_usage)
        return await _answer(fleet, http, body.request(), reply, bool(body.stream))

    return router


async def _answer(fleet: FleetService, http: Request, request: GenerateRequest, reply: Reply, stream: bool) -> Response:
    if stream:
        return EventStream(_chunks(fleet, request, reply), _failed)
    try:
        with _told_unready(fleet, request.model):
            return JSONResponse(reply.whole(await unless_gone(http.receive, collect(fleet, request))))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _chunks(fleet: FleetService, request: GenerateRequest, reply: Reply) -> AsyncGenerator[ServerSentEvent]:
    opening = reply.opening()  # sent with the first token, so that an error before it still has its status
    with _told_unready(fleet, request.model):
        async with closing(fleet.generate(request)) as parts:
            async for part in parts:
                for chunk in opening:
                    yield ServerSentEvent(line(chunk))
                opening = []
                if isinstance(part, TokenChunk):
                    for chunk in reply.piece(part) if part.text else ():
                        yield ServerSentEvent(line(chunk))
                else:
                    for chunk in reply.closing(part):
                        yield ServerSentEvent(line(chunk))
    yield ServerSentEvent(DONE)


@contextmanager
def _told_unready(fleet: FleetService, model: str | None) -> Iterator[None]:
    """A deployment that is listed is not told to be missing: OpenAI's clients try again after a 503, and give up at model_not_found."""
    try:
        yield
    except NotFound as error:
        for view in fleet.deployments():
            if model in (view.name, view.model) and view.state in ("deploying", "degraded"):
                why = f"{view.name} is {view.state}: {view.detail or error.detail}"
                raise Unavailable(why, advice="try again", retry_after_seconds=RETRY_SECONDS) from error
        raise


def _failed(error: FleetError) -> ServerSentEvent:
    return ServerSentEvent(line(openai_body(error)))
