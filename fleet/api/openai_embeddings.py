"""OpenAI's embeddings: of each input the mean of its normed last hidden rows, of length 1."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.api.caller import FleetOfCaller
from fleet.api.errors import CLIENT_CLOSED_REQUEST, InvalidParameter
from fleet.api.openai import told_unready
from fleet.api.openai_fields import EMBEDDINGS, Others
from fleet.api.openai_reply import usage_of
from fleet.api.openai_request import Inputs, each_input, form_of
from fleet.api.sse import ClientGone, unless_gone
from fleet.api.together import results
from fleet.service.protocol import FleetService

MOST_INPUTS = 2048  # as OpenAI has it

Vector = npt.NDArray[np.float32]


class EmbeddingsBody(BaseModel):
    """POST /v1/embeddings."""

    model_config = ConfigDict(extra="allow")
    OTHERS: ClassVar[Others] = EMBEDDINGS

    model: str
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, lt=1 << 32)] | None = None

    def requests(self) -> list[GenerateRequest]:
        """One for each input. Raises InvalidParameter."""
        self.OTHERS.check(self)
        inputs = each_input(self.input)
        if len(inputs) > MOST_INPUTS:
            raise InvalidParameter(
                "input", f"input has {len(inputs)} items: it may have {MOST_INPUTS} at most", advice="send fewer at once"
            )
        if not inputs or not all(inputs):
            raise InvalidParameter("input", "input is empty: it must be a string or a list of token ids, with something in it")
        return embedding_requests(self.model, inputs)


def embedding_requests(model: str, inputs: Sequence[str | list[int]]) -> list[GenerateRequest]:
    return [GenerateRequest(model=model, max_tokens=0, embedding=True, **form_of(one)) for one in inputs]


def routes(of_caller: FleetOfCaller) -> APIRouter:
    router = APIRouter(tags=["openai"])

    @router.post("/embeddings")
    async def embeddings(body: EmbeddingsBody, http: Request, fleet: FleetService = Depends(of_caller)) -> Response:
        """A vector for each text."""
        requests = body.requests()
        try:
            with told_unready(fleet, body.model):
                found = await unless_gone(http.receive, results(fleet, requests))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        data = [
            {"object": "embedding", "index": index, "embedding": _told(vector, body.encoding_format)}
            for index, vector in enumerate(vectors(found, body.dimensions))
        ]
        usage = {name: value for name, value in usage_of(found).items() if not name.startswith(("completion", "prompt_tokens_d"))}
        return JSONResponse({"object": "list", "data": data, "model": body.model, "usage": usage})

    return router


def vectors(found: Sequence[GenerateResult], dimensions: int | None) -> list[Vector]:
    """Each of length 1: all of it, or of its first `dimensions` numbers. Raises InvalidParameter where it has not so many."""
    whole = [np.array(result.embedding, np.float64) for result in found]
    if dimensions is not None and dimensions > (size := min(map(len, whole))):
        raise InvalidParameter("dimensions", f"dimensions is {dimensions}: the model's embeddings have {size}", advice="ask for fewer")
    return [(one / (np.linalg.norm(one) or 1.0)).astype(np.float32) for one in (one[:dimensions] for one in whole)]


def _told(vector: Vector, encoding_format: str | None) -> Any:
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
