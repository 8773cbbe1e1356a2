"""Ollama's API, so that software that speaks it needs no change: a face of the same requests as OpenAI's."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from device.text.calls import tools_told
from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.api import ollama_models
from fleet.api.caller import FleetOfCaller
from fleet.api.closing import closing
from fleet.api.encode import line
from fleet.api.errors import CLIENT_CLOSED_REQUEST, ollama_body
from fleet.api.generate import collect
from fleet.api.ollama_reply import OllamaReply, message_of, response_of
from fleet.api.ollama_request import OllamaChatBody, OllamaEmbedBody, OllamaGenerateBody, OllamaShowBody, model_name
from fleet.api.openai import told_unready
from fleet.api.openai_embeddings import vectors
from fleet.api.openai_reply import usage_of
from fleet.api.sse import LINES, ClientGone, LineStream, unless_gone
from fleet.api.together import results
from fleet.service.protocol import FleetService
from protos.errors import FleetError

# Ollama's, whose API this follows: the first that had log probabilities.
FOLLOWED = "0.12.11"


@dataclass(frozen=True)
class JsonLine:
    data: str

    def encode(self) -> bytes:
        return f"{self.data}\n".encode()


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["ollama"])

    @router.get("/version")
    async def version(fleet: FleetService = Depends(of_caller)) -> dict[str, str]:
        """The version of Ollama that is followed, and our own."""
        return {"version": FOLLOWED, "glmfleet": metadata.version("glmfleet")}

    @router.get("/tags")
    async def tags(fleet: FleetService = Depends(of_caller)) -> dict[str, Any]:
        """Deployments, as models."""
        return {"models": ollama_models.listed(fleet)}

    @router.get("/ps")
    async def ps(fleet: FleetService = Depends(of_caller)) -> dict[str, Any]:
        """Those that answer."""
        return {"models": ollama_models.running(fleet)}

    @router.post("/show")
    async def show(body: OllamaShowBody, fleet: FleetService = Depends(of_caller)) -> dict[str, Any]:
        """One deployment, as a model."""
        return ollama_models.shown(fleet, model_name(body.model or body.name))

    @router.post("/chat", responses=LINES)
    async def chat(body: OllamaChatBody, http: Request, fleet: FleetService = Depends(of_caller)) -> Response:
        """Chat, streamed or whole."""
        request = body.request()
        reply = OllamaReply(body.model, message_of, tools_told(request.tools if request else ()))
        return await _answer(fleet, http, request, reply, body.streams)

    @router.post("/generate", responses=LINES)
    async def generate(body: OllamaGenerateBody, http: Request, fleet: FleetService = Depends(of_caller)) -> Response:
        """A prompt through the template, or raw, streamed or whole."""
        return await _answer(fleet, http, body.request(), OllamaReply(body.model, response_of, plain=body.plain), body.streams)

    @router.post("/embed")
    async def embed(body: OllamaEmbedBody, http: Request, fleet: FleetService = Depends(of_caller)) -> Response:
        """A vector for each text."""
        began, requests = time.perf_counter_ns(), body.requests()
        try:
            with told_unready(fleet, model_name(body.model)):
                found = await unless_gone(http.receive, results(fleet, requests)) if requests else []
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        told: dict[str, Any] = {"model": body.model, "embeddings": [one.tolist() for one in vectors(found, body.dimensions)]}
        durations = {"total_duration": time.perf_counter_ns() - began, "load_duration": 0}
        count = {"prompt_eval_count": usage_of(found)["prompt_tokens"]} if found else {}
        return JSONResponse({**told, **durations, **count})

    return router


async def _answer(fleet: FleetService, http: Request, request: GenerateRequest | None, reply: OllamaReply, stream: bool) -> Response:
    if request is None:
        ollama_models.deployed(fleet, model_name(reply.model))
        return JSONResponse(reply.loaded())
    if stream:
        return LineStream(_lines(fleet, request, reply), _failed)
    try:
        with told_unready(fleet, request.model):
            return JSONResponse(reply.whole(await unless_gone(http.receive, collect(fleet, request))))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _lines(fleet: FleetService, request: GenerateRequest, reply: OllamaReply) -> AsyncGenerator[JsonLine]:
    with told_unready(fleet, request.model):
        async with closing(fleet.generate(request)) as parts:
            async for part in parts:
                for told in reply.closing(part) if isinstance(part, GenerateResult) else reply.piece(part):
                    yield JsonLine(line(told))


def _failed(error: FleetError) -> JsonLine:
    return JsonLine(line(ollama_body(error)))
