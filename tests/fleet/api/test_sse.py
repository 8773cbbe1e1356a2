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


async def test_a_silence_is_filled_and_an_answer_that_has_ended_is_not() -> None:
    """Proxies end connections on which nothing comes; before the first event the answer may still become another status."""
    filled, sent = asyncio.Event(), list[Message]()

    async def events() -> AsyncGenerator[ServerSentEvent]:
        await asyncio.sleep(0.1)
        yield ServerSentEvent("x", number=1)
        await filled.wait()
        yield ServerSentEvent("y", number=2)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)
        if message.get("body", b"").startswith(b":"):
            filled.set()

    async with asyncio.timeout(5):
        await EventStream(events(), failed, keep_alive_seconds=0.03)({"type": "http"}, receive, send)
    assert sent[0]["type"] == "http.response.start"
    bodies = [message["body"] for message in sent[1:]]
    assert (bodies[0], bodies[-2:]) == (b"id: 1\ndata: x\n\n", [b"id: 2\ndata: y\n\n", b""])
    assert set(bodies[1:-2]) == {b": still at it\n\n"}
    await asyncio.sleep(0.06)
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
