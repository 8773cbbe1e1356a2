"""Simon Willison's `llm`, by its models for servers that speak OpenAI's API."""

from __future__ import annotations

import sys
from typing import Any

import llm
from features import MODEL, SCHEMA, check_schema, refused, tell
from llm.default_plugins.openai_models import Chat, Completion


def chat(model: str = MODEL) -> Any:
    return Chat(model, model_name=model, api_base=f"{sys.argv[1]}/v1", supports_schema=True, supports_tools=True)


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def stream() -> None:
    whole = chat().prompt("hello", key="none", stream=False, max_tokens=8, temperature=0).text()
    assert "".join(chat().prompt("hello", key="none", max_tokens=8, temperature=0)) == whole


def result() -> None:
    asked = chat().prompt("hello", key="none", stream=False, tools=[get_weather], max_tokens=4)
    asked.text()
    told = llm.ToolResult(name="get_weather", output="rain", tool_call_id="call_1")
    chat().prompt("and?", key="none", stream=False, tools=[get_weather], tool_results=[told], max_tokens=4).text()


tell(
    {
        "chat": lambda: chat().prompt("hello", key="none", stream=False, max_tokens=4).text(),
        "stream": stream,
        "schema": lambda: check_schema(chat().prompt("hello", key="none", stream=False, schema=SCHEMA).text()),
        "result": result,
        "text": lambda: Completion(MODEL, model_name=MODEL, api_base=f"{sys.argv[1]}/v1").prompt("hello", key="none", max_tokens=4).text(),
        "unknown": lambda: refused(lambda: chat("nil").prompt("hello", key="none", stream=False).text(), "nil"),
    }
)
