"""Options of a request that `generate` and `chat` share, and what they ask for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

# A small model can lose itself in repetition: without a limit it would fill the context, minutes of it.
DEFAULT_MAX_TOKENS = 512

MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of the answer at most, if the context leaves so many.")]
SystemOption = Annotated[str | None, typer.Option("--system", help="A system message before the prompt.", show_default=False)]
StopOption = Annotated[list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.", show_default=False)]
BadWordsOption = Annotated[
    list[str] | None,
    typer.Option("--bad-words", help="This text does not come, as the tokenizer writes it; may be repeated.", show_default=False),
]
MinTokensOption = Annotated[int, typer.Option("--min-tokens", min=0, help="Before so many nothing ends the answer.")]
# Two options, not one with two names: those have a column of their own in every line of the help.
ThinkOption = Annotated[bool, typer.Option("--think", help="A model that can shall think before it answers.")]
NoThinkOption = Annotated[bool, typer.Option("--no-think", help="It shall not. Without either: as its template has it.")]


def rules(stop: Sequence[str] | None, bad_words: Sequence[str] | None, min_tokens: int, think: bool, no_think: bool) -> dict[str, Any]:
    """Fields of a GenerateRequest. Raises typer.BadParameter for an empty text, and for both ways to think."""
    if think and no_think:
        raise typer.BadParameter("--think and --no-think: give one of them")
    for option, texts in (("--stop", stop), ("--bad-words", bad_words)):
        if texts and not all(texts):
            raise typer.BadParameter(f"{option} is empty: give a text, or leave it out")
    return {
        "stop": tuple(stop or ()),
        "bad_words": tuple(bad_words or ()),
        "min_tokens": min_tokens,
        "chat_template_kwargs": json.dumps({"enable_thinking": think}) if think or no_think else "",
    }
