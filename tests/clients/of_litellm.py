"""LiteLLM, by its provider for servers that speak OpenAI's API."""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks another host

import litellm
from features import FUNCTION, HELLO, MODEL, SCHEMA, SEEN, check_call, check_schema, refused, tell

litellm.telemetry = False
litellm.suppress_debug_info = True
SERVER: Any = {"api_base": f"{sys.argv[1]}/v1", "api_key": "none", "num_retries": 0}  # pragma: allowlist secret
TOOL: Any = {"type": "function", "function": FUNCTION}


def chat(model: str = MODEL, messages: Any = HELLO, **options: Any) -> Any:
    return litellm.completion(model=f"openai/{model}", messages=messages, **{"max_tokens": 200, **options}, **SERVER)


def stream() -> None:
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chat(max_tokens=8, temperature=0, stream=True))
    assert told == chat(max_tokens=8, temperature=0).choices[0].message.content


def schema() -> None:
    wish = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}
    check_schema(chat(response_format=wish).choices[0].message.content)


def call() -> Any:
    message = chat(tools=[TOOL], tool_choice="required", parallel_tool_calls=False).choices[0].message
    (called,) = message.tool_calls
    check_call(called.function.name, called.function.arguments)
    return message


def result() -> None:
    asked = call()
    answered = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "rain"}
    chat(messages=[*HELLO, asked.model_dump(exclude_none=True), answered], tools=[TOOL], max_tokens=4)


def logprobs() -> None:
    assert len(chat(logprobs=True, top_logprobs=2, max_tokens=2).choices[0].logprobs.content[0].top_logprobs) == 2


def choices() -> None:
    assert len(chat(n=2, max_tokens=4).choices) == 2


def embed() -> None:
    first, second = litellm.embedding(model=f"openai/{MODEL}", input=["hello", "bye"], **SERVER).data
    assert first["embedding"] != second["embedding"]


def responses() -> None:
    wish: Any = {"model": f"openai/{MODEL}", "input": "hello", "max_output_tokens": 8, **SERVER}
    assert litellm.responses(**wish).output
    assert list(litellm.responses(**wish, stream=True))


tell(
    {
        "chat": lambda: chat(max_tokens=4),
        "stream": stream,
        "schema": schema,
        "tools": call,
        "result": result,
        "choices": choices,
        "logprobs": logprobs,
        "text": lambda: litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt="hello", max_tokens=4, **SERVER),
        "embed": embed,
        "responses": responses,
        "image": lambda: refused(lambda: chat(messages=SEEN), "images"),
        "unknown": lambda: refused(lambda: chat("nil"), "nil"),
    }
)
