"""The command that measures any OpenAI endpoint by MLPerf's scenarios, so that peers are measured alike."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fleet.api.encode import plain
from fleet.cli.bench_client import Answer, Endpoint
from fleet.cli.bench_loadgen import Query, Rules, Scenario, Verdict, run
from fleet.cli.bench_report import print_report, report
from fleet.cli.options import parse_duration
from fleet.cli.output import note, print_json, say
from protos.errors import InvalidInput, NotFound, Unavailable

KEY = "OPENAI_API_KEY"
QUICKER = 20  # than the first any other answer may be: LoadGen makes its queries beforehand, some microseconds each
# Short and of several kinds; none is the beginning of another, so that a cache of prompts helps nobody.
PROMPTS = (
    "Explain how a lighthouse works.",
    "Write a letter to a friend about a long train journey.",
    "What is the difference between weather and climate?",
    "Describe the steps of making bread by hand.",
    "Tell a story of a lost key.",
    "Why is the sky blue, and the sunset red?",
    "List arguments for and against a shorter working week.",
    "How does a bicycle stay upright?",
    "Give advice to somebody who moves to another country.",
    "Summarise what photosynthesis does.",
    "Compare a library with the internet.",
    "Invent a game for two players and a pencil.",
    "How are mountains formed?",
    "Describe a market in the early morning.",
    "What should one know before learning to swim?",
    "Explain compound interest with an example.",
)


def serve(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of the endpoint, such as http://127.0.0.1:7400.")],
    scenario: Annotated[
        Scenario,
        typer.Option(
            "--scenario",
            help="One query after the other; --samples at a time; --rate a second by Poisson; all at once.",
        ),
    ] = "single-stream",
    model: Annotated[str | None, typer.Option("--model", "-m", help="Its name there (default: the first).", show_default=False)] = None,
    duration: Annotated[str, typer.Option("--duration", metavar="TIME", help="At least; MLPerf's is 10m.")] = "1m",
    queries: Annotated[int, typer.Option("--queries", min=1, help="At least; MLPerf's is 1024 (single-stream), 270336 (server).")] = 64,
    rate: Annotated[float, typer.Option("--rate", min=0.001, help="Queries a second: of server, and expected of offline.")] = 1.0,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Of multi-stream: at a time.")] = 8,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Most requests that are open; what is more waits here.")] = 256,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=2, help="Of each answer.")] = 64,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="File with a prompt on each line (default: 16 short ones).", show_default=False)
    ] = None,
    ttft: Annotated[str, typer.Option("--ttft", metavar="TIME", help="Of server: to the first token, what 99 % have to keep to.")] = "2s",
    tpot: Annotated[float, typer.Option("--tpot", min=0.0001, help="Of server: likewise, seconds a token behind it.")] = 0.2,
    form: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print it.")] = "table",
) -> None:
    """Measure any OpenAI endpoint by MLPerf's scenarios.

    MLCommons' LoadGen drives: single-stream sends a query when the one before is answered, multi-stream so many (--samples) at a time,
    server by chance (--rate a second, Poisson), offline all at once. It says what counts as a run, and what early stopping allows to say.
    A key is taken from OPENAI_API_KEY. One request is made before, which counts for nothing. Answers are chat completions at temperature 0.

    Example: glmfleet bench serve http://127.0.0.1:7400 --scenario server --rate 2 --duration 1m
    """
    rules = Rules(scenario, parse_duration(duration), queries, rate, samples, parse_duration(ttft), tpot)
    body = {"max_tokens": max_tokens, "temperature": 0}
    asked = _prompts(prompts)
    answers, verdict, name = asyncio.run(_measure(url, model, asked, body, rules, at_once))
    told = report(answers)
    driver = f"LoadGen {version('mlcommons-loadgen')}"
    if form == "json":
        what = {"endpoint": url, "model": name, "prompts": len(asked), **body, "driver": driver}
        print_json({**what, "rules": plain(rules), "verdict": plain(verdict), **plain(told)})
    else:
        say(f"{scenario}, {name} at {url}")
        print_report(told)
        satisfied = ", ".join(f"{what}: {'yes' if yes else 'no'}" for what, yes in verdict.satisfied.items())
        say(f"{driver}: {'valid' if verdict.valid else 'INVALID'} ({satisfied})")
        for line in verdict.early_stopping:
            note(f"  {line}")
    if told.errors:
        raise typer.Exit(1)


async def _measure(
    url: str, model: str | None, prompts: tuple[str, ...], body: dict[str, Any], rules: Rules, at_once: int
) -> tuple[list[Answer], Verdict, str]:
    """Raises Unavailable where the endpoint does not answer, NotFound where it has no model."""
    answers: list[Answer] = []
    async with Endpoint(url, os.environ.get(KEY, "")) as endpoint:
        models = [model] if model else await endpoint.models()
        if not models:
            raise NotFound(f"{endpoint.url} has no model", advice="deploy one there, or name one with --model")
        gate = asyncio.Semaphore(at_once)

        async def ask(prompt: str, query: Query) -> Answer:
            messages = [{"role": "user", "content": prompt}]
            return await endpoint.ask({**body, "model": models[0], "messages": messages}, query.first)

        async def answer(query: Query) -> None:
            async with gate:
                found = await ask(prompts[query.index], query)
            answers.append(found)
            query.first()
            query.complete(max(found.tokens, 2))  # LoadGen divides by those behind the first

        first = await ask(prompts[0], Query(0, lambda: None, lambda _: None))
        if first.error:
            raise Unavailable(f"{endpoint.url}: {first.error}", advice="the endpoint has to stream chat completions")
        rules = replace(rules, expected_seconds=first.seconds / QUICKER)
        verdict = await run(rules, len(prompts), answer)
    return answers, verdict, models[0]


def _prompts(path: Path | None) -> tuple[str, ...]:
    """Raises InvalidInput."""
    if path is None:
        return PROMPTS
    try:
        found = tuple(line for line in path.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
    if not found:
        raise InvalidInput(f"{path} has no prompts", advice="write one on each line")
    return found
