"""What each client is asked to do, in its own process and environment, and how it tells what became of it: it imports nothing of ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

# By name, in the words of docs/clients.md.
FEATURES = {
    "models": "models are listed",
    "chat": "a chat, whole",
    "stream": "a chat, streamed",
    "schema": "an answer that fits a JSON schema",
    "tools": "a function is called, since one has to be",
    "result": "its result is sent back",
    "choices": "two answers at once",
    "logprobs": "log probabilities",
    "text": "a plain completion",
    "echo": "a prompt is told back, and rated",
    "embed": "embeddings",
    "responses": "responses, whole and streamed",
    "image": "an image in a message",
    "unknown": "a model that is not there",
}
MODEL = "tiny"
HELLO: Any = [{"role": "user", "content": "hello"}]
PICTURE = "data:image/png;base64,iVBORw0KGgo="
SEEN: Any = [{"role": "user", "content": [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]}]
SCHEMA = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"], "additionalProperties": False}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}, "required": ["city"]}
FUNCTION: Any = {"name": "get_weather", "description": "The weather in a city.", "parameters": PARAMETERS}


class Refused(Exception):
    """The server said no, and named what it does not do."""


def refused(ask: Callable[[], object], *names: str) -> None:
    """Raises Refused where it is, with all of `names` in what it says; else what `ask` raises."""
    try:
        ask()
    except Exception as error:
        if all(name in str(error) for name in names):
            raise Refused from error
        raise
    raise AssertionError("it was not refused")


def check_schema(text: str) -> None:
    assert json.loads(text)["answer"] in ("yes", "no"), text


def check_call(name: str, arguments: str | Mapping[str, Any]) -> None:
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert name == "get_weather"
    assert isinstance(given["city"], str)


def tell(tried: Mapping[str, Callable[[], object]]) -> None:
    """What came of each as JSON: {feature: "works", "refused", or what went wrong}."""
    found = {}
    for name, ask in tried.items():
        try:
            ask()
            found[name] = "works"
        except Refused:
            found[name] = "refused"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:300]
    sys.stdout.write(json.dumps(found))
