"""The command to talk with the model, turn by turn."""

from __future__ import annotations

import readline  # noqa: F401  (gives input() its history and line editing)
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from device.text.messages import Message
from device.text.thoughts import thought_and_said
from fleet.answering.views import GenerateRequest
from fleet.cli.answers import stream_answer
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
from fleet.cli.costs import summary
from fleet.cli.options import HomeOption, ModelOption, open_home
from fleet.cli.output import note
from fleet.cli.sampling import with_sampling
from fleet.cli.streams import read_line
from fleet.deploying.balancing import not_deployed
from protos.errors import FleetError, InvalidInput
from protos.sampling import GREEDY, Sampling

COMMANDS = {
    "/clear": "begin a new conversation",
    "/help": "this list",
    "/quit, /exit": "end, as Ctrl-D does",
    "//TEXT": "send /TEXT",
}
_PROMPT = "> "


@with_sampling
def chat(
    model: ModelOption = None,
    system: SystemOption = None,
    max_tokens: MaxTokensOption = DEFAULT_MAX_TOKENS,
    sampling: Sampling = GREEDY,
    left_to_model: tuple[str, ...] = (),
    think: ThinkOption = False,
    no_think: NoThinkOption = False,
    stop: StopOption = None,
    bad_words: BadWordsOption = None,
    min_tokens: MinTokensOption = 0,
    reuse_decoded: Annotated[
        bool,
        typer.Option("--reuse-decoded", help="Take over what the model's own answers left in the cache: sooner, less exact."),
    ] = False,
    home: HomeOption = None,
) -> None:
    """Talk with the deployed model. Ctrl-C stops an answer, /quit or Ctrl-D ends; /help lists what else a line may be.

    What the model thinks before it answers is dim, and goes to stderr.

    Example: glmfleet chat --system "You are brief."
    """
    asked = GenerateRequest(
        model=model,
        max_tokens=max_tokens,
        sampling=sampling,
        left_to_model=left_to_model,
        reuse_decoded=reuse_decoded,
        **rules(stop, bad_words, min_tokens, think, no_think),
    )
    opening = (Message("system", system),) if system else ()
    with connect(open_home(home)) as coordinator:
        deployed = coordinator.deployments()
        if not any(model in (None, view.name, view.model) for view in deployed):
            raise not_deployed(model, [view.name for view in deployed], [each.name for each in coordinator.models()])
        if sys.stdin.isatty():
            note("Ctrl-C stops an answer, /quit or Ctrl-D ends, /help lists what else a line may be.")
        failed = _converse(coordinator, asked, opening)
    if failed and not sys.stdin.isatty():  # nobody has seen it but the program that asked
        raise typer.Exit(1)


def _converse(coordinator: CoordinatorClient, asked: GenerateRequest, opening: Sequence[Message]) -> bool:
    """Until the end; whether a line had no answer that should have had one."""
    history, failed = list(opening), False
    while (line := _read()) not in (None, "/quit", "/exit"):
        if not line:
            continue
        if line.startswith("/") and not line.startswith("//"):
            if line == "/clear":
                history = list(opening)
            failed = not _commanded(line) or failed
            continue
        history.append(Message("user", line.removeprefix("/") if line.startswith("//") else line))
        answer = _answer(coordinator, replace(asked, messages=tuple(history)))
        failed = failed or isinstance(answer, FleetError)
        if isinstance(answer, str):
            history.append(Message("assistant", answer))
        else:
            history.pop()  # a turn without an answer is as if it had not been
    return failed


def _commanded(line: str) -> bool:
    """What a command says; False: it is none."""
    if line == "/clear":
        note("(a new conversation)")
    elif line == "/help":
        for command, what in COMMANDS.items():
            note(f"{command:<14}{what}")
    else:
        note(f"{line.split()[0]} is no command (/help lists them); to send a text that begins with a slash, write two")
        return False
    return True


def _read() -> str | None:
    """A line, "" for nothing to say, None at the end."""
    while True:
        try:
            line = read_line(_PROMPT if sys.stdin.isatty() else "").strip()
        except EOFError:
            note()
            return None
        except InvalidInput as error:
            if not sys.stdin.isatty():
                raise
            note(f"error: {error.detail}")
            continue
        except KeyboardInterrupt:
            note()
            continue
        return line


def _answer(coordinator: CoordinatorClient, request: GenerateRequest) -> str | FleetError | None:
    """What was said, for the next turn: templates write the newline before it themselves, and are told no thoughts of before. None when
    it was stopped.
    """
    try:
        result = stream_answer(coordinator, request, echo=True)
    except KeyboardInterrupt:
        note("(stopped)")
        return None
    except FleetError as error:
        note(f"error: {error.detail}")
        if error.advice:
            note(f"  {error.advice}")
        return error
    note(summary(result))
    return thought_and_said(result.text, result.in_thought).said
