"""A model's own chat template, run in a sandbox, in a process with little memory and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from device.text.child import Killed
from device.text.encoder import MAX_CHARACTERS
from device.text.template_process import NoTemplate, TemplateProcess
from protos.errors import InvalidInput

_LONGEST_SOURCE = 1 << 20
_ADVICE = "check the messages' roles and order, or send a raw prompt"
_NO_CHAT = "send a raw prompt, or repair the template and import the model again"


class ChatTemplate:
    """From Jinja source. What transformers gives a template is there: `messages`, `tools`, `documents`, `add_generation_prompt`, special
    tokens by name, and what `device.text.sandbox` adds to Jinja.

    The source comes with the model, from strangers: it is compiled and run in another process, sees no Python internals there, and its
    output is bounded, so that one that is written to burn time or memory takes neither from ours.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], clock: Callable[[], datetime]) -> None:
        self._problem = _problem(source)
        self._special_tokens = dict(special_tokens)
        self._clock = clock
        self._process = TemplateProcess(source)

    def render(self, outside: Mapping[str, Any], *, add_generation_prompt: bool) -> str:
        """`outside` is what callers give, by the names that the template knows: `messages`, and as they come `tools` and others.

        Raises InvalidInput when the source is no template, and when it refuses the messages, fails, takes too much, or writes more than
        MAX_CHARACTERS.
        """
        if self._problem:
            raise InvalidInput(f"the model's chat template is {self._problem}", advice=_NO_CHAT)
        variables = {
            **self._special_tokens,
            "tools": None,
            "documents": None,
            **outside,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            answer = self._process.call({"variables": variables, "now": self._clock().isoformat(), "most_characters": MAX_CHARACTERS})
        except NoTemplate as error:
            raise InvalidInput(f"the model's chat template is no template: {error}", advice=_NO_CHAT) from None
        except Killed:
            raise InvalidInput("the model's chat template took too much time or memory", advice=_ADVICE) from None
        if "too_long" in answer:
            raise InvalidInput(f"the prompt is longer than {MAX_CHARACTERS} characters", advice="send fewer or shorter messages")
        if "error" in answer:
            raise InvalidInput(f"the model's chat template refuses these messages: {answer['error']}", advice=_ADVICE)
        text: str = answer["text"]
        return text


def _problem(source: str) -> str:
    """What can be seen without compiling it; "": nothing."""
    if len(source) > _LONGEST_SOURCE:
        return f"longer than {_LONGEST_SOURCE} characters"
    return "not UTF-8" if any("\ud800" <= character <= "\udfff" for character in source) else ""
