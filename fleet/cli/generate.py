"""The command for one prompt and one answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated

import typer

from device.text.messages import Message
from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.answers import Gap, stream_answer
from fleet.cli.client import CoordinatorClient, connect
from fleet.cli.conversation import (
    DEFAULT_MAX_TOKENS,
    BadWordsOption,
    MaxTokensOption,
    MinTokensOption,
    NoThinkOption,
    StopOption,
    SystemOption,
    ThinkOption,
    rules,
)
from fleet.cli.costs import answer_json, print_cost
from fleet.cli.options import HomeOption, JsonOption, ModelOption, open_home, parse_ids
from fleet.cli.output import print_json
from fleet.cli.sampling import with_sampling
from fleet.cli.streams import read_all
from protos.sampling import GREEDY, Sampling

_BLANK = re.compile(r"\s*\[[gs]?MASK\]")


@with_sampling
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to ask; - reads it from standard input.", show_default=False)] = None,
    model: ModelOption = None,
    system: SystemOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    infill: Annotated[
        bool, typer.Option("--infill", help=r"Fill each \[MASK], \[sMASK] and \[gMASK] of the text, show it all (original GLM only).")
    ] = False,
    max_tokens: MaxTokensOption = DEFAULT_MAX_TOKENS,
    sampling: Sampling = GREEDY,
    left_to_model: tuple[str, ...] = (),
    think: ThinkOption = False,
    no_think: NoThinkOption = False,
    stop: StopOption = None,
    bad_words: BadWordsOption = None,
    min_tokens: MinTokensOption = 0,
    prompt_ids: Annotated[
        str | None, typer.Option("--prompt-ids", metavar="1,2,3", help="Token ids instead of a prompt.", show_default=False)
    ] = None,
    forced_ids: Annotated[
        str | None, typer.Option("--forced-ids", metavar="1,2,3", help="First tokens of the answer, already known.", show_default=False)
    ] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on to --max-tokens, whatever the model says.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """One prompt, one answer, streamed. What it cost goes to stderr, and what the model thought before it answered.

    With --json: one object with text, token_ids, finish_reason, prompt_tokens, completion_tokens, ttft_seconds and tpot_seconds
    (each wall and modelled), model, deployment, and devices (each with busy_seconds, joules, source, joules_per_token).

    A model that fills blanks (GLM-2B) gives what belongs in the text's first one, with --infill in each, from left to right, with
    --max-tokens for each; a text without a blank is continued. With several, --json gives one object with text (all of it) and fills
    (what the object is otherwise, for each blank).

    Example: glmfleet generate "What is the capital of France?" --max-tokens 50
    Example: glmfleet generate --infill "Paris is the [MASK] of France."
    """
    if infill and (system or prompt_ids):
        raise typer.BadParameter("--infill goes with a text, not with --system or --prompt-ids")
    if (think or no_think) and (raw or infill or prompt_ids):
        raise typer.BadParameter("--think and --no-think go through the chat template, not with --raw, --infill or --prompt-ids")
    given = _prompt(prompt, system, raw or infill, parse_ids(prompt_ids))
    around = around_blanks(given.text or "") if infill else None
    if around and len(around) > 2 and (forced_ids or stop):
        raise typer.BadParameter("--forced-ids and --stop go with one blank, not with several")
    request = GenerateRequest(
        model=model,
        prompt=given.prompt,
        text=given.text,
        messages=given.messages,
        prompt_ids=given.prompt_ids,
        forced_ids=parse_ids(forced_ids),
        max_tokens=max_tokens,
        sampling=sampling,
        left_to_model=left_to_model,
        ignore_eos=ignore_eos,
        infill=infill,
        **rules(stop, bad_words, min_tokens, think, no_think),
    )
    with connect(open_home(home)) as coordinator:
        results = _answers(coordinator, request, around, echo=not as_json)
    if not as_json:
        print_cost(*results)
    elif len(results) == 1:
        print_json(answer_json(results[0]))
    else:
        assert around
        whole = "".join(before + result.text for before, result in zip(around, results, strict=False)) + around[-1]
        print_json({"text": whole, "fills": [answer_json(result) for result in results]})


def _answers(coordinator: CoordinatorClient, request: GenerateRequest, around: Sequence[str] | None, *, echo: bool) -> list[GenerateResult]:
    """One for each gap in `around`, each request knowing the answers before it; None: one of no text around."""
    if around is None:
        return [stream_answer(coordinator, request, echo=echo)]
    results: list[GenerateResult] = []
    for before, after in pairwise(around):
        last = len(results) == len(around) - 2
        fills = tuple(result.token_ids for result in results)
        gap = Gap(before, after + "\n" if last else "", begun=bool(results))
        results.append(stream_answer(coordinator, replace(request, fills=fills), echo=echo, gap=gap))
    return results


def around_blanks(text: str) -> list[str]:
    """What stands before, between and behind the blanks, without the white space that they take with them; a text without one ends in
    one."""
    pieces = _BLANK.split(text)
    return pieces if len(pieces) > 1 else [text, ""]


def _prompt(prompt: str | None, system: str | None, raw: bool, ids: tuple[int, ...]) -> GenerateRequest:
    """The four ways to give a prompt; exactly one must be taken."""
    if ids:
        if prompt is not None or system or raw:
            raise typer.BadParameter("--prompt-ids goes without a prompt, --system and --raw")
        return GenerateRequest(prompt_ids=ids)
    if prompt is None:
        raise typer.BadParameter('a prompt is missing: glmfleet generate "What is the capital of France?"')
    text = read_all() if prompt == "-" else prompt
    if raw:
        if system:
            raise typer.BadParameter("--raw takes no --system: there is no template to put it in")
        return GenerateRequest(text=text)
    if system:
        return GenerateRequest(messages=(Message("system", system), Message("user", text)))
    return GenerateRequest(prompt=text)
