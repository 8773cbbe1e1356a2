"""Ollama's client for Python, of our face of Ollama's API."""

from __future__ import annotations

import sys
from typing import Any

import ollama
from features import FUNCTION, HELLO, MODEL, SCHEMA, check_schema, refused, tell

client = ollama.Client(host=sys.argv[1])
TOOL: Any = {"type": "function", "function": FUNCTION}


def models() -> None:
    assert [model.model for model in client.list().models] == [MODEL]
    assert "completion" in (client.show(MODEL).capabilities or ())
    assert client.ps().models[0].name == MODEL


def stream() -> None:
    wish: Any = {"model": MODEL, "messages": HELLO, "options": {"num_predict": 8, "temperature": 0}}
    told = "".join(part.message.content or "" for part in client.chat(**wish, stream=True))
    assert told == client.chat(**wish).message.content


def result() -> None:
    called: Any = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Ulm"}}}]}
    answered = {"role": "tool", "content": "rain", "tool_name": "get_weather"}
    client.chat(MODEL, [*HELLO, called, answered], tools=[TOOL], options={"num_predict": 4})


def logprobs() -> None:
    told: Any = client.chat(MODEL, HELLO, logprobs=True, top_logprobs=2, options={"num_predict": 2}).logprobs
    assert len(told[0].top_logprobs or ()) == 2


def text() -> None:
    assert client.generate(MODEL, "hello", raw=True, options={"num_predict": 4}).done_reason in ("stop", "length")
    assert "".join(part.response or "" for part in client.generate(MODEL, "hello", stream=True, options={"num_predict": 4})) is not None


def embed() -> None:
    first, second = client.embed(MODEL, ["hello", "bye"], dimensions=16).embeddings
    assert (len(first), first == second) == (16, False)


tell(
    {
        "models": models,
        "chat": lambda: client.chat(MODEL, HELLO, options={"num_predict": 4}),
        "stream": stream,
        "schema": lambda: check_schema(client.chat(MODEL, HELLO, format=SCHEMA).message.content or ""),
        "result": result,
        "logprobs": logprobs,
        "text": text,
        "embed": embed,
        "image": lambda: refused(lambda: client.chat(MODEL, [{**HELLO[0], "images": ["iVBORw0KGgo="]}]), "images"),
        "unknown": lambda: refused(lambda: client.chat("nil", HELLO), "nil"),
    }
)
