"""One request of any endpoint that speaks OpenAI's API, streamed, and when each part of its answer came."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from protos.errors import FleetError, InvalidInput, Unavailable

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """Seconds from its sending, by a monotonic clock; `first` and `last`: the first and last text. None, and no tokens: it failed.

    `joules` by how they are known, {} where the endpoint tells none. `counted`: the endpoint told no usage, so tokens are its chunks.
    """

    sent_at: float
    seconds: float
    first: float | None = None
    last: float | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    joules: Mapping[str, float] = field(default_factory=dict)
    counted: bool = False
    error: str = ""

    @property
    def seconds_per_token(self) -> float | None:
        """Behind the first; None with fewer than two."""
        return None if self.first is None or self.last is None or self.tokens < 2 else (self.last - self.first) / (self.tokens - 1)


class Endpoint:
    """An async context manager. `url`: its base, with or without "/v1"."""

    def __init__(self, url: str, key: str = "", *, timeout_seconds: float = 600.0) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS)
        # No limit of connections: how many are open is the scenario's.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(base_url=f"{base}/v1", headers=headers, timeout=timeout, limits=limits)
        self.url = f"{base}/v1"

    async def __aenter__(self) -> Endpoint:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exit_: Any) -> None:
        await self._http.__aexit__(*exit_)

    async def models(self) -> list[str]:
        """Raises Unavailable where nobody answers so."""
        try:
            answer = await self._http.get("/models")
            answer.raise_for_status()
            return [str(one["id"]) for one in answer.json()["data"]]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"{self.url}/models: {type(error).__name__}: {error}", advice="give the URL of an OpenAI endpoint") from error

    async def ask(self, body: Mapping[str, Any], on_first: Callable[[], None]) -> Answer:
        """A chat completion. Whatever goes wrong is in the answer's `error`, in few words that many have alike."""
        sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
        course = _Course(time.perf_counter(), on_first)
        try:
            async with self._http.stream("POST", "/chat/completions", json=sent) as response:
                if response.status_code != 200:
                    return course.failed(f"{response.status_code} {_code(await response.aread())}".strip())
                async for line in response.aiter_lines():
                    if line.startswith("data:"):
                        course.heard(line[5:].strip())
        except httpx.TimeoutException:
            return course.failed("timed out")
        except httpx.HTTPError as error:
            return course.failed(type(error).__name__)
        except FleetError as error:
            return course.failed(error.detail)
        return course.ended()


class _Course:
    """Of one stream. Lines are looked at while they come, which is some 20 µs each: seconds are those of their arrival."""

    def __init__(self, sent_at: float, on_first: Callable[[], None]) -> None:
        self._sent_at = sent_at
        self._on_first = on_first
        self._first: float | None = None
        self._last: float | None = None
        self._chunks = 0
        self._usage: dict[str, Any] | None = None

    def heard(self, data: str) -> None:
        """Raises InvalidInput for an error or for what is no chunk."""
        if data == "[DONE]":
            return
        at = time.perf_counter() - self._sent_at
        try:
            chunk = json.loads(data)
            if "error" in chunk:
                raise InvalidInput(f"in the stream: {_code(data.encode())}")
            deltas = [choice.get("delta") or {} for choice in chunk.get("choices", ())]
            text = any(delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning") for delta in deltas)
            self._usage = chunk.get("usage") or self._usage
        except (ValueError, AttributeError, TypeError) as error:
            raise InvalidInput("a chunk that is none") from error
        if text:
            if self._first is None:
                self._first = at
                self._on_first()
            self._last = at
            self._chunks += 1

    def failed(self, error: str) -> Answer:
        return Answer(self._sent_at, time.perf_counter() - self._sent_at, error=error)

    def ended(self) -> Answer:
        seconds, usage = time.perf_counter() - self._sent_at, self._usage or {}
        if self._first is None:
            return self.failed("no text")
        told = int(usage.get("completion_tokens") or 0)
        joules: dict[str, float] = {}
        for one in usage.get("energy") or ():
            if one.get("joules") is not None:
                joules[str(one["source"])] = joules.get(str(one["source"]), 0.0) + float(one["joules"])
        return Answer(
            self._sent_at,
            seconds,
            self._first,
            self._last,
            int(usage.get("prompt_tokens") or 0),
            told or self._chunks,
            joules,
            counted=not told,
        )


def _code(body: bytes) -> str:
    """What an error body says in a word; "" where it is none of OpenAI's."""
    try:
        error = json.loads(body)["error"]
        return str(error if isinstance(error, str) else error.get("code") or error.get("type") or error.get("message") or "")[:80]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
