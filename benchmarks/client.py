"""The whole path, seen by a client: OpenAI completions, streamed over HTTP, from a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from benchmarks.worker import Ask, Figures, answer, unknown
from protos.errors import Unavailable

# How long after a long prompt the short one is sent: the first is then being prefilled.
BESIDE_SECONDS = 0.1


@dataclass(frozen=True)
class Answer:
    """One streamed answer: when it was asked for, when each piece of text came, and how many tokens it had."""

    sent_at: float
    pieces: tuple[float, ...]
    tokens: int

    @property
    def first_token_seconds(self) -> float:
        return self.pieces[0] - self.sent_at

    def tokens_between(self, start: float, stop: float) -> float:
        """After `start`, up to `stop`; a piece counts as its share of the tokens."""
        return sum(start < at <= stop for at in self.pieces) * self.tokens / len(self.pieces)


class Client:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80

    def measure(self, ask: Ask) -> Figures:
        return asyncio.run(self._measure(ask))

    async def _measure(self, ask: Ask) -> Figures:
        if ask.what == "prefill":
            found = await self.stream(ask.deployment, ask.prompts[0], 1)
            return {"seconds": found.first_token_seconds}
        if ask.what == "decode":
            return decode_figures(await asyncio.gather(*(self.stream(ask.deployment, prompt, ask.tokens) for prompt in ask.prompts)))
        if ask.what == "beside":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.stream(ask.deployment, ask.prompts[0], 1), name="long")
                await asyncio.sleep(BESIDE_SECONDS)
                short = tasks.create_task(self.stream(ask.deployment, ask.prompts[-1], 1), name="short")
            return {"seconds": short.result().first_token_seconds}
        raise unknown(ask)

    async def stream(self, deployment: str, prompt: Sequence[int], tokens: int) -> Answer:
        """One request on a connection of its own. Lines are only noted while they come, and read at the end: the client must cost little.

        Raises Unavailable with what the server said instead.
        """
        body = {"model": deployment, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
        payload = json.dumps({**body, "stream_options": {"include_usage": True}}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            sent_at = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n".encode() + payload)
            lines = [(time.perf_counter(), line) async for line in reader if line.startswith((b"data: ", b"HTTP/", b"{"))]
        finally:
            writer.close()
        return _parse(sent_at, lines)


def decode_figures(answers: Sequence[Answer]) -> Figures:
    """Tokens per second of all answers while all of them were running. Raises Unavailable when that was for too short a time to tell."""
    start = max(answer.pieces[0] for answer in answers)
    stop = min(answer.pieces[-1] for answer in answers)
    counts = [answer.tokens_between(start, stop) for answer in answers]
    if min(counts) < 4:
        raise Unavailable(f"an answer gave only {min(counts):.0f} tokens while all were running", advice="ask for more tokens")
    return {
        "tokens_per_second": sum(counts) / (stop - start),
        "first_token_seconds": max(answer.first_token_seconds for answer in answers),
    }


def _parse(sent_at: float, lines: Sequence[tuple[float, bytes]]) -> Answer:
    (_, status), *rest = lines
    if b" 200 " not in status:
        raise Unavailable(f"{status.decode().strip()}: {rest[0][1].decode()[:200] if rest else ''}")
    pieces, tokens = [], 0
    for at, line in rest:
        if line.startswith(b"data: {"):
            chunk: dict[str, Any] = json.loads(line[6:])
            if "error" in chunk:
                raise Unavailable(str(chunk["error"]))
            if any(choice.get("text") for choice in chunk.get("choices", ())):
                pieces.append(at)
            if chunk.get("usage"):
                tokens = int(chunk["usage"]["completion_tokens"])
    if not pieces or not tokens:
        raise Unavailable("the answer had no text")
    return Answer(sent_at, tuple(pieces), tokens)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client", description=__doc__)
    parser.add_argument("url")
    answer(Client(parser.parse_args().url).measure)


if __name__ == "__main__":
    main()
