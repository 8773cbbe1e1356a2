"""OpenAI's client for Python, of whichever version is installed."""

from __future__ import annotations

import sys
from typing import Any

import openai
from features import FUNCTION, HELLO, MODEL, SCHEMA, SEEN, check_call, check_schema, refused, tell

client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
chat = client.chat.completions
TOOL: Any = {"type": "function", "function": FUNCTION}


def models() -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"


def whole() -> None:
    answer = chat.create(model=MODEL, messages=HELLO, max_tokens=4)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 4


def stream() -> None:
    wish: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 8, "temperature": 0}
    chunks = list(chat.create(**wish, stream=True, stream_options={"include_usage": True}))
    told = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert told == chat.create(**wish).choices[0].message.content
    assert chunks[-1].usage is not None


def schema() -> None:
    wish: Any = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}
    check_schema(chat.create(model=MODEL, messages=HELLO, response_format=wish).choices[0].message.content or "")


def call() -> Any:
    answer = chat.create(model=MODEL, messages=HELLO, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    message: Any = answer.choices[0].message
    (called,) = message.tool_calls
    check_call(called.function.name, called.function.arguments)
    return message


def result() -> None:
    asked: Any = call()
    answered: Any = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "rain"}
    chat.create(model=MODEL, messages=[*HELLO, asked, answered], tools=[TOOL], max_tokens=4)


def choices() -> None:
    assert len(chat.create(model=MODEL, messages=HELLO, n=2, seed=1, max_tokens=4).choices) == 2


def logprobs() -> None:
    told: Any = chat.create(model=MODEL, messages=HELLO, logprobs=True, top_logprobs=2, max_tokens=2).choices[0].logprobs
    assert len(told.content[0].top_logprobs) == 2


def text() -> None:
    assert client.completions.create(model=MODEL, prompt="hello", max_tokens=4).choices[0].finish_reason in ("stop", "length")


def echo() -> None:
    told = client.completions.create(model=MODEL, prompt="hello", echo=True, logprobs=1, max_tokens=0).choices[0]
    assert told.text == "hello"
    assert told.logprobs is not None
    assert all(one < 0 for one in (told.logprobs.token_logprobs or ())[1:])


def embed() -> None:
    first, second = client.embeddings.create(model=MODEL, input=["hello", "bye"], dimensions=16).data
    assert (len(first.embedding), first.embedding == second.embedding) == (16, False)


def responses() -> None:
    wish: Any = {"model": MODEL, "input": "hello", "max_output_tokens": 8, "temperature": 0}
    events = list(client.responses.create(**wish, stream=True))
    assert events[-1].response.output_text == client.responses.create(**wish).output_text
    tool: Any = {"type": "function", **FUNCTION}
    (called,) = client.responses.create(model=MODEL, input="hello", tools=[tool], tool_choice="required", parallel_tool_calls=False).output
    check_call(called.name, called.arguments)
    back: Any = [*HELLO, called, {"type": "function_call_output", "call_id": called.call_id, "output": "rain"}]
    client.responses.create(model=MODEL, input=back, tools=[tool], max_output_tokens=4)


tell(
    {
        "models": models,
        "chat": whole,
        "stream": stream,
        "schema": schema,
        "tools": call,
        "result": result,
        "choices": choices,
        "logprobs": logprobs,
        "text": text,
        "echo": echo,
        "embed": embed,
        "responses": responses,
        "image": lambda: refused(lambda: chat.create(model=MODEL, messages=SEEN), "images"),
        "unknown": lambda: refused(lambda: chat.create(model="nil", messages=HELLO), "nil"),
    }
)
