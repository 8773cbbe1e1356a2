"""What a format costs, and whether answers keep to it: decode speed with and without one, and many replies that are parsed and validated.

python -m benchmarks.formats [--replies 1000]        (makes or takes the model of `benchmarks.speed`'s cache)

One agent and `glmfleet serve`, each a process. Speeds are of the head's own clock, medians of rounds that alternate. Replies are drawn at
temperature 1, eight at a time beside two free ones, every other one streamed; one cut off at its limit is counted apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.models import prepare
from benchmarks.product import LocalFleet
from quantize.hub.catalog import DEFAULT_MODEL

DEPLOYMENT, TOKENS, ROUNDS = "formats", 64, 5
LONG = {"type": "array", "items": {"type": "string", "maxLength": 60}, "minItems": 100}  # never ends within TOKENS
_STRICT = ConfigDict(extra="forbid", strict=True)
_Short = Annotated[str, Field(max_length=12)]


class Place(BaseModel):
    model_config = _STRICT

    street: _Short
    zip: Annotated[str, Field(pattern=r"^[0-9]{5}$")]
    at: Annotated[list[Annotated[int, Field(ge=-90, le=90)]], Field(min_length=2, max_length=2)]


class Person(BaseModel):
    """Nested objects, enumerations, arrays, Unicode, numbers with bounds."""

    model_config = _STRICT

    name: _Short
    age: Annotated[int, Field(ge=0, le=130)]
    mood: Literal["froh", "müde", "嬉しい"]
    tags: Annotated[list[Literal["a", "b", "ü"]], Field(max_length=3)]
    home: Place
    boss: Place | None


class Weather(BaseModel):
    model_config = _STRICT

    city: _Short
    days: Annotated[int, Field(ge=1, le=14)]
    unit: Literal["C", "F"]


class Person2(BaseModel):
    model_config = _STRICT

    person: Person


CALLS: dict[str, type[BaseModel]] = {"get_weather": Weather, "add_person": Person2}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Does it.", "parameters": of.model_json_schema()}}
    for name, of in CALLS.items()
]


def generate(url: str, prompt: str, seed: int, schema: Any) -> float:
    """Seconds per token after the first."""
    body = {
        "model": DEPLOYMENT,
        "prompt": prompt,
        "seed": seed,
        "temperature": 1,
        "max_tokens": TOKENS,
        "stream": False,
        "json_schema": schema,
    }
    answer = httpx.post(f"{url}/api/v1/generate", json={**body, "ignore_eos": schema is None}, timeout=300, trust_env=False)
    answer.raise_for_status()
    return float(answer.json()["tpot_seconds"])


def together(url: str, schemas: Sequence[Any], seed: int) -> list[float]:
    with ThreadPoolExecutor(len(schemas)) as pool:
        asked = [pool.submit(generate, url, f"Tell me of number {number}.", seed + number, one) for number, one in enumerate(schemas)]
        return [one.result() for one in asked]


def speeds(url: str) -> None:
    print(
        "| streams | tokens/s of one, free | with a format | cost | free beside as many with a format | cost |\n|---|---|---|---|---|---|"
    )
    for streams in (1, 4):
        found: dict[str, list[float]] = {"free": [], "kept": [], "beside": []}
        for turn in range(ROUNDS):
            found["free"] += together(url, [None] * streams, 10 * turn)
            found["kept"] += together(url, [LONG] * streams, 10 * turn)
            if streams > 1:
                found["beside"] += together(url, [None, LONG] * (streams // 2), 10 * turn)[::2]
        free, kept, beside = (1 / statistics.median(one) if one else None for one in found.values())
        assert free
        assert kept
        tail = f"{beside:.1f} | {1 - beside / free:+.1%}" if beside else "– | –"
        print(f"| {streams} | {free:.1f} | {kept:.1f} | {1 - kept / free:+.1%} | {tail} |", flush=True)


def chat(url: str, number: int, **wish: Any) -> dict[str, Any]:
    """The choice, of a stream or whole."""
    body = {
        "model": DEPLOYMENT,
        "messages": [{"role": "user", "content": f"Give me example {number}."}],
        "max_tokens": 800,
        "seed": number,
        **wish,
    }
    if number % 2:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300, trust_env=False)
        answer.raise_for_status()
        choice: dict[str, Any] = answer.json()["choices"][0]
        return {**choice["message"], "finish_reason": choice["finish_reason"]}
    found: dict[str, Any] = {"content": "", "tool_calls": []}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=300, trust_env=False) as stream:
        stream.raise_for_status()
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                one = json.loads(line[6:])["choices"][0]
                found["content"] += one["delta"].get("content") or ""
                found["tool_calls"] += one["delta"].get("tool_calls") or ()
                found["finish_reason"] = one["finish_reason"]
    return found


def person(url: str, number: int) -> str:
    wish = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": Person.model_json_schema()}}
    found = chat(url, number, response_format=wish)
    return _judged(found, lambda: Person.model_validate_json(found["content"]))


def call(url: str, number: int) -> str:
    choice: Any = {"type": "function", "function": {"name": "add_person"}} if number % 3 == 0 else "required"
    found = chat(url, number, tools=TOOLS, tool_choice=choice, parallel_tool_calls=number % 4 == 0)

    def check() -> None:
        for one in found["tool_calls"]:
            CALLS[one["function"]["name"]].model_validate_json(one["function"]["arguments"])
        if not found["tool_calls"] or found.get("content"):
            raise ValueError("no call, or more than calls")

    return _judged(found, check)


def _judged(found: dict[str, Any], check: Callable[[], object]) -> str:
    try:
        check()
    except (ValueError, ValidationError) as error:
        # A call that its limit cut off stays in the content, behind those that were whole.
        cut = found["finish_reason"] == "length" or str(found.get("content") or "").startswith("<tool_call>")
        return "cut off" if cut else f"wrong: {error}: {found}"
    return "fits"


def replies(url: str, count: int) -> None:
    ended = threading.Event()

    def beside(seed: int) -> None:
        while not ended.is_set():
            generate(url, f"Number {seed}", seed, None)

    with ThreadPoolExecutor(2) as neighbours, ThreadPoolExecutor(8) as pool:
        free = [neighbours.submit(beside, seed) for seed in range(2)]
        try:
            for name, one in (("schema", person), ("tools", call)):
                began = time.monotonic()
                judged = Counter(pool.map(partial(one, url), range(count)))
                told = ", ".join(f"{number:,} {what}" for what, number in judged.most_common(5))
                print(f"{count:,} replies by {name}: {told} ({time.monotonic() - began:.0f} s)", flush=True)
        finally:
            ended.set()
        for task in free:
            task.result()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=1000)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "glmfleet-benchmarks")
    options = parser.parse_args(arguments)
    model = prepare(DEFAULT_MODEL, options.cache)
    with tempfile.TemporaryDirectory() as folder, LocalFleet(Path(folder), model.artifacts, {"one": 1}) as fleet:
        fleet.deploy(DEPLOYMENT, model.name, ["one"], 1024, 10)
        together(fleet.url, [LONG, None], 0)  # the vocabulary is sent, the grammar compiled
        speeds(fleet.url)
        replies(fleet.url, options.replies)


if __name__ == "__main__":
    main()
