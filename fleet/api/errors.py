"""Errors over HTTP: one table of status codes, three shapes of body: ours, OpenAI's under /v1, Ollama's under /api but not /api/v1."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fleet.api.problems import first_problem
from fleet.principal import OverBudget, Unauthenticated
from protos.errors import Busy, Conflict, Corrupt, Denied, FleetError, Internal, InvalidInput, NoSpace, NotFound, TimedOut, Unavailable
from protos.rpc_errors import as_fleet_error

OPENAI_PREFIX = "/v1/"
OWN_PREFIX, OLLAMA_PREFIX = "/api/v1/", "/api/"
CLIENT_CLOSED_REQUEST = 499  # nginx's number; nobody reads it, access logs do

_STATUS: dict[type[FleetError], int] = {
    InvalidInput: 400,
    Denied: 403,
    NotFound: 404,
    Conflict: 409,
    Busy: 429,
    Corrupt: 500,
    Internal: 500,
    Unavailable: 503,
    TimedOut: 504,
    NoSpace: 507,
}
# OpenAI's `type`, from https://platform.openai.com/docs/guides/error-codes and what its client raises for each status.
_OPENAI_TYPE = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_log = logging.getLogger(__name__)


class InvalidParameter(InvalidInput):
    """A field of a request that is missing, or has a value that cannot be meant.

    `param` (None: the whole body) and `code` are for OpenAI's clients.
    """

    def __init__(self, param: str | None, detail: str, *, code: str = "invalid_value", advice: str = "") -> None:
        super().__init__(detail, advice=advice)
        self.param = param
        self.code = code


class UnsupportedParameter(InvalidParameter):
    """A field of OpenAI's API, or of its kin, that would change the answer and that we do not honour."""

    def __init__(self, param: str, detail: str, advice: str = "") -> None:
        super().__init__(param, detail, code="unsupported_parameter", advice=advice or f"leave {param} out")


def status_of(error: FleetError) -> int:
    if isinstance(error, Unauthenticated):
        return 401
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def fleet_body(error: FleetError) -> dict[str, Any]:
    """{"error": {"code", "detail", "advice"}}; `code` is the name of a class in `protos.errors`. With "reason" where that says less than
    programs need: which way a key, a token or a budget is no good."""
    code = next((kind.__name__ for kind in _STATUS if isinstance(error, kind)), "Internal")
    reason = getattr(error, "reason", "")
    return {"error": {"code": code, "detail": error.detail, "advice": error.advice, **({"reason": reason} if reason else {})}}


def openai_body(error: FleetError) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}."""
    status = status_of(error)
    kind = _OPENAI_TYPE.get(status, "invalid_request_error" if status < 500 else "server_error")
    param: str | None = None
    code: str | None = None
    if isinstance(error, InvalidParameter):
        param, code = error.param, error.code
    elif isinstance(error, NotFound):
        param, code = "model", "model_not_found"
    elif isinstance(error, Unauthenticated):
        code = "invalid_api_key"
    elif isinstance(error, OverBudget):
        code = "rate_limit_exceeded" if error.reason == "requests" else "insufficient_quota"
    message = f"{error.detail} ({error.advice})" if error.advice else error.detail
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def ollama_body(error: FleetError) -> dict[str, Any]:
    """{"error": "…"}."""
    return {"error": f"{error.detail} ({error.advice})" if error.advice else error.detail}


def install(app: FastAPI) -> None:
    """Every error of every route leaves as one of the three shapes, never as a traceback."""
    app.add_exception_handler(FleetError, _on_fleet_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_defect)


def respond(request: Request, error: FleetError, status: int | None = None) -> Response:
    """The error in the shape that its path's clients know."""
    body = _shape(request.url.path)(error)
    headers: dict[str, str] = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Busy | Unavailable):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    return JSONResponse(body, status or status_of(error), headers)


def _shape(path: str) -> Callable[[FleetError], dict[str, Any]]:
    if path.startswith(OPENAI_PREFIX):
        return openai_body
    return ollama_body if path.startswith(OLLAMA_PREFIX) and not path.startswith(OWN_PREFIX) else fleet_body


async def _on_fleet_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FleetError)
    return respond(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    sent = request.headers.get("content-type", "").partition(";")[0]
    if error.body is not None and not sent.endswith("json"):
        return respond(request, InvalidInput("the body was not read as JSON", advice="send Content-Type: application/json"))
    if any(problem["type"] == "json_invalid" for problem in error.errors()):
        return respond(request, InvalidInput("the body is not JSON"))
    problem = first_problem(error.errors(), error.body)
    return respond(request, InvalidParameter(problem.place or None, problem.sentence, code=problem.code))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return respond(request, InvalidInput(f"no such route: {request.method} {request.url.path}", advice="see /openapi.json"), 404)
    if error.status_code == 400:  # FastAPI's, for what its reader of JSON stumbled over
        return respond(request, InvalidInput("the body is no JSON in UTF-8, or cannot be held", advice="send a JSON object"))
    return respond(request, InvalidInput(f"{error.detail}: {request.method} {request.url.path}"), error.status_code)


async def _on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_defect(request: Request, error: Exception) -> Response:
    _log.error("a defect, while answering %s %s", request.method, request.url.path, exc_info=error)
    return respond(request, as_fleet_error(error))
