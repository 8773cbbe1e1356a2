from __future__ import annotations

import asyncio
import json

import pytest

from benchmarks.client import Answer, Client, decode_figures
from benchmarks.worker import Ask
from protos.errors import InvalidInput, Unavailable

USAGE = {"choices": [], "usage": {"completion_tokens": 3}}


class Server:
    """Answers every request with these bytes."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self.asked: list[dict[str, object]] = []

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")).split(b":")[1])
        self.asked.append(json.loads(await reader.readexactly(length)))
        writer.write(self._reply)
        await writer.drain()
        writer.close()


def events(*chunks: object) -> bytes:
    return b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks) + b"data: [DONE]\n\n"


async def test_a_streamed_answer() -> None:
    pieces = [{"choices": [{"text": text}]} for text in (" a", "", " b", " c")]
    server = Server(events(*pieces, USAGE))
    async with server as url:
        found = await Client(url).stream("cut-1", (1, 2), 3)
    assert (len(found.pieces), found.tokens) == (3, 3)
    assert found.first_token_seconds > 0
    asked = server.asked[0]
    assert (asked["model"], asked["prompt"], asked["max_tokens"], asked["stream"]) == ("cut-1", [1, 2], 3, True)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b'HTTP/1.1 429 Too Many Requests\r\n\r\n{"error": "full"}\n', "429 Too Many Requests: .*full"),
        (events({"error": {"message": "gone"}}), "gone"),
        (events({"choices": [{"text": ""}]}, USAGE), "no text"),
    ],
)
async def test_an_answer_that_is_none(reply: bytes, words: str) -> None:
    async with Server(reply) as url:
        with pytest.raises(Unavailable, match=words):
            await Client(url).stream("cut-1", (1,), 3)


def test_the_rate_is_of_the_time_in_which_all_were_running() -> None:
    early = Answer(0.0, tuple(float(second) for second in range(1, 11)), 10)  # one token a second, from 1 to 10
    late = Answer(0.0, tuple(5 + second / 2 for second in range(13)), 13)  # two a second, from 5 to 11
    found = decode_figures([early, late])
    assert found["tokens_per_second"] == pytest.approx(3.0)
    assert found["first_token_seconds"] == 5.0


def test_a_piece_of_several_tokens_counts_as_its_share() -> None:
    assert Answer(0.0, (1.0, 2.0, 3.0), 6).tokens_between(1.0, 3.0) == 4.0


def test_answers_that_hardly_ran_together_tell_nothing() -> None:
    with pytest.raises(Unavailable, match="0 tokens"):
        decode_figures([Answer(0.0, (1.0, 2.0), 2), Answer(0.0, (2.0, 3.0), 2)])


def test_what_it_cannot_measure_it_says() -> None:
    with pytest.raises(InvalidInput, match="juggle"):
        Client("http://127.0.0.1:1").measure(Ask("juggle", ()))  # type: ignore[arg-type]
