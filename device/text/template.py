"""A model's own chat template, run in a sandbox, in a process with little memory and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2

from device.text.sandbox import compile_template, one_line
from device.text.template_process import Killed, TemplateProcess
from protos.errors import InvalidInput

MAX_CHARACTERS = 4 * 1024 * 1024  # of a prompt's text: far beyond any context
_LONGEST_SOURCE = 1 << 20
_NO_VARIABLES: Mapping[str, Any] = {}
_ADVICE = "check the messages' roles and order, or send a raw prompt"


class ChatTemplate:
    """From Jinja source. What templates of the Hugging Face hub expect is there: `messages`, `tools`, `add_generation_prompt`,
    special tokens by name, `raise_exception`, `strftime_now`, `tojson`, loop controls.

    The source comes with the model, from strangers: it sees no Python internals, its output is bounded, and it runs in another process, so
    that one that is written to burn time or memory takes neither from ours. Raises InvalidInput when the source is not a template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], clock: Callable[[], datetime]) -> None:
        if len(source) > _LONGEST_SOURCE:
            raise InvalidInput(f"the model's chat template is longer than {_LONGEST_SOURCE} characters", advice="import another model")
        try:
            compile_template(source, clock)
        except (jinja2.TemplateError, SyntaxError, ValueError, OverflowError, MemoryError, RecursionError) as error:  # Python compiles it
            raise InvalidInput(
                f"the model's chat template is no template: {one_line(error)}", advice="repair it and import the model again"
            ) from error
        self._special_tokens = dict(special_tokens)
        self._clock = clock
        self._process = TemplateProcess(source)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool,
        variables: Mapping[str, Any] = _NO_VARIABLES,
    ) -> str:
        """`variables` are those of the caller; they replace special tokens, and none of our own.

        Raises InvalidInput when the template refuses the messages, fails, takes too much, or writes more than MAX_CHARACTERS."""
        variables = {
            **self._special_tokens,
            **variables,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            **({"tools": [dict(tool) for tool in tools]} if tools else {}),
        }
        try:
            answer = self._process.call({"variables": variables, "now": self._clock().isoformat(), "most_characters": MAX_CHARACTERS})
        except Killed:
            raise InvalidInput("the model's chat template took too much time or memory", advice=_ADVICE) from None
        if "too_long" in answer:
            raise InvalidInput(f"the prompt is longer than {MAX_CHARACTERS} characters", advice="send fewer or shorter messages")
        if "error" in answer:
            raise InvalidInput(f"the model's chat template refuses these messages: {answer['error']}", advice=_ADVICE)
        text: str = answer["text"]
        return text
