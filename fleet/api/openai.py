"""OpenAI's API (models, chat completions, completions), so that software that speaks it needs no change."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from fleet.answering.views import GenerateRequest, GenerateResult, PromptChunk
from fleet.api.caller import FleetOfCaller
from fleet.api.closing import closing
from fleet.api.encode import line
from fleet.api.errors import CLIENT_CLOSED_REQUEST, openai_body
from fleet.api.openai_reply import DONE, Reply, model_entry
from fleet.api.openai_request import ChatBody, CompletionBody
from fleet.api.openai_told import chat_reply, text_reply
from fleet.api.resuming import Resumed, resumed_by
from fleet.api.sse import EVENTS, ClientGone, EventStream, ServerSentEvent, unless_gone
from fleet.api.together import results, together
from fleet.service.protocol import FleetService
from protos.errors import FleetError, NotFound, Unavailable

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
    async def chat_completions(
        body: ChatBody, http: Request, resumed: Resumed = Depends(resumed_by), fleet: FleetService = Depends(of_caller)
    ) -> Response:
        """Chat, streamed or whole."""
        requests = resumed.of_each(body.requests())
        return await _answer(fleet, http, requests, chat_reply(body, requests[0].tools), bool(body.stream))

    @router.post("/completions", responses=EVENTS)
    async def completions(
        body: CompletionBody, http: Request, resumed: Resumed = Depends(resumed_by), fleet: FleetService = Depends(of_caller)
    ) -> Response:
        """Plain text continued, without a template, streamed or whole."""
        return await _answer(fleet, http, resumed.of_each(body.requests()), text_reply(body), bool(body.stream))

    return router


async def _answer(fleet: FleetService, http: Request, requests: Sequence[GenerateRequest], reply: Reply, stream: bool) -> Response:
    if stream:
        return EventStream(_chunks(fleet, requests, reply), _failed)
    try:
        with told_unready(fleet, requests[0].model):
            return JSONResponse(reply.whole(await unless_gone(http.receive, results(fleet, requests))))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _chunks(fleet: FleetService, requests: Sequence[GenerateRequest], reply: Reply) -> AsyncGenerator[ServerSentEvent]:
    opening = reply.opening()  # sent with the first token, so that an error before it still has its status
    tokens, known = 0, requests[0].resume_after  # of one answer: several are not resumed
    ended: dict[int, GenerateResult] = {}
    with told_unready(fleet, requests[0].model):
        async with closing(together(fleet, requests)) as parts:
            async for index, part in parts:
                for chunk in () if known else opening:
                    yield ServerSentEvent(line(chunk))
                opening = []
                if isinstance(part, GenerateResult):
                    ended[index] = part
                    said = reply.closing(index, part)
                else:
                    tokens += len(part.token_ids)
                    said = reply.piece(index, part)  # also of what the client has: calls and thoughts begin there
                for chunk in said:
                    if tokens > known or isinstance(part, GenerateResult) or (isinstance(part, PromptChunk) and not known):
                        yield ServerSentEvent(line(chunk), number=tokens if tokens and len(requests) == 1 else None)
    for chunk in reply.ending([ended[index] for index in sorted(ended)]):
        yield ServerSentEvent(line(chunk))
    yield ServerSentEvent(DONE)


@contextmanager
def told_unready(fleet: FleetService, model: str | None) -> Iterator[None]:
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
