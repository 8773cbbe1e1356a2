"""The command for one prompt and one answer."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from typing import Annotated

import typer

from device.text.messages import Message
from fleet.cli.client import CoordinatorClient, connect
from fleet.cli.costs import answer_json, print_cost
from fleet.cli.options import HomeOption, JsonOption, ModelOption, open_home, parse_ids
from fleet.cli.output import note, print_json
from fleet.views import GenerateRequest, GenerateResult
from protos.errors import Internal

# A small model can lose itself in repetition: without a limit it would fill the context, minutes of it.
DEFAULT_MAX_TOKENS = 512
_BLANK = re.compile(r"\s*\[[gs]?MASK\]")

MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of the answer at most, if the context leaves so many.")]
TemperatureOption = Annotated[float, typer.Option("--temperature", min=0, help="0 is greedy.")]
TopKOption = Annotated[int, typer.Option("--top-k", min=0, help="Sample from the K likeliest; 0: from all.")]
TopPOption = Annotated[float, typer.Option("--top-p", min=0, max=1, help="Sample from the likeliest that sum up to this; above 0.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Makes sampling repeat itself.", show_default=False)]
SystemOption = Annotated[str | None, typer.Option("--system", help="A system message before the prompt.", show_default=False)]


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to ask; - reads it from standard input.", show_default=False)] = None,
    model: ModelOption = None,
    system: SystemOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    infill: Annotated[
        bool, typer.Option("--infill", help=r"Fill the first \[MASK], \[sMASK] or \[gMASK] of the text, show it all (original GLM only).")
    ] = False,
    max_tokens: MaxTokensOption = DEFAULT_MAX_TOKENS,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.", show_default=False)] = None,
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
    """One prompt, one answer, streamed. What it cost goes to stderr.

    With --json: one object with text, token_ids, finish_reason, prompt_tokens, completion_tokens, ttft_seconds and tpot_seconds
    (each wall and modelled), model, deployment, and devices (each with busy_seconds, joules, source, joules_per_token).

    A model that fills blanks (GLM-2B) gives what belongs in the text's first one; a text without a blank is continued.

    Example: glmfleet generate "What is the capital of France?" --max-tokens 50
    Example: glmfleet generate --infill "Paris is the [MASK] of France."
    """
    if infill and (system or prompt_ids):
        raise typer.BadParameter("--infill goes with a text, not with --system or --prompt-ids")
    given = _prompt(prompt, system, raw or infill, parse_ids(prompt_ids))
    before, after = around_blank(given.text or "") if infill else ("", "")
    request = GenerateRequest(
        model=model,
        prompt=given.prompt,
        text=given.text,
        messages=given.messages,
        prompt_ids=given.prompt_ids,
        forced_ids=parse_ids(forced_ids),
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=tuple(stop or ()),
        ignore_eos=ignore_eos,
        infill=infill,
    )
    with connect(open_home(home)) as coordinator:
        result = stream_answer(coordinator, request, echo=not as_json, before=before, after=after)
    if infill and _BLANK.search(after):
        note("only the first blank is filled: ask again with its text in place")
    if as_json:
        print_json(answer_json(result))
    else:
        print_cost(result)


def stream_answer(
    coordinator: CoordinatorClient, request: GenerateRequest, *, echo: bool, before: str = "", after: str = ""
) -> GenerateResult:
    """Print the text as it comes, between `before` and `after`, and return the result.

    KeyboardInterrupt cancels the sequence on its way out.
    """
    written = False
    with closing(coordinator.generate(request)) as parts:
        try:
            for part in parts:
                if isinstance(part, GenerateResult):
                    if written:
                        sys.stdout.write(after)
                    return part
                if echo and part.text:
                    if not written:
                        sys.stdout.write(before)
                    written = True
                    sys.stdout.write(part.text)
                    sys.stdout.flush()
        finally:
            if written:
                sys.stdout.write("\n")
                sys.stdout.flush()
    raise Internal("the answer ended without a result")


def around_blank(text: str) -> tuple[str, str]:
    """What stands before the first blank, without the white space that it takes with it, and behind; a text without one ends in one."""
    before, *rest = _BLANK.split(text, maxsplit=1)
    return before, rest[0] if rest else ""


def _prompt(prompt: str | None, system: str | None, raw: bool, ids: tuple[int, ...]) -> GenerateRequest:
    """The four ways to give a prompt; exactly one must be taken."""
    if ids:
        if prompt is not None or system or raw:
            raise typer.BadParameter("--prompt-ids goes without a prompt, --system and --raw")
        return GenerateRequest(prompt_ids=ids)
    if prompt is None:
        raise typer.BadParameter('a prompt is missing: glmfleet generate "What is the capital of France?"')
    text = sys.stdin.read() if prompt == "-" else prompt
    if raw:
        if system:
            raise typer.BadParameter("--raw takes no --system: there is no template to put it in")
        return GenerateRequest(text=text)
    if system:
        return GenerateRequest(messages=(Message("system", system), Message("user", text)))
    return GenerateRequest(prompt=text)
