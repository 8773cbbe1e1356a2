from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.types import Message

from fleet.api.deployments import failed
from fleet.api.sse import EventStream, ServerSentEvent


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    """Its connection stands, its socket is full: the answer must not hold its place for ever."""
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[ServerSentEvent]:
        try:
            while True:
                yield ServerSentEvent("x")
        finally:
            closed.set()

    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await EventStream(events(), failed, stall_seconds=0.05)({"type": "http"}, receive, send)
    assert closed.is_set()
    assert [message["type"] for message in sent] == ["http.response.start", *["http.response.body"] * 3]
