"""A model's own chat template, run in a sandbox and bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from protos.errors import InvalidInput

MAX_CHARACTERS = 4 * 1024 * 1024  # of a prompt's text: far beyond any context
_ADVICE = "check the messages' roles and order, or send a raw prompt"


class ChatTemplate:
    """Compiled once from Jinja source. What templates of the Hugging Face hub expect is there: `messages`, `add_generation_prompt`,
    special tokens by name, `raise_exception`, `strftime_now`, `tojson`, loop controls.

    The source comes with the model, from strangers: it sees no Python internals, and its output is bounded. Its loops are not:
    a template written to burn time or memory can (in the caller's executor).
    Raises InvalidInput when the source is not a template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], clock: Callable[[], datetime]) -> None:
        # Block trimming and loop controls as transformers' apply_chat_template sets them: templates are written for that.
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = _tojson
        for name in _PADDING_FILTERS:
            del environment.filters[name]
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda format: clock().strftime(format)
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise InvalidInput(
                f"the model's chat template is no template: {_line(error)}", advice="repair it and import the model again"
            ) from error

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), *, add_generation_prompt: bool) -> str:
        """Raises InvalidInput when the template refuses the messages, fails, or writes more than MAX_CHARACTERS."""
        pieces: list[str] = []
        total = 0
        try:
            for piece in self._template.generate(
                **self._special_tokens,
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                **({"tools": [dict(tool) for tool in tools]} if tools else {}),
            ):
                total += len(piece)
                if total > MAX_CHARACTERS:
                    raise InvalidInput(f"the prompt is longer than {MAX_CHARACTERS} characters", advice="send fewer or shorter messages")
                pieces.append(piece)
        except InvalidInput:
            raise
        except Exception as error:  # a template is a program: it may raise anything
            raise InvalidInput(f"the model's chat template refuses these messages: {_line(error)}", advice=_ADVICE) from error
        return "".join(pieces)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses the one-line ways to fill the memory: "x" * 10**9, 10**10**10, "%999999999d" % 1, "x".ljust(10**9)."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if not _is_small(operator, left, right):
            raise jinja2.TemplateError(f"the result of {operator} would be too large")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr in _PADDING_METHODS) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja asks this before `is_safe_attribute`; None for what is no str.format."""
        if super().wrap_str_format(value) is None:
            return None
        raise jinja2.exceptions.SecurityError("str.format is not for chat templates: use % or ~")


_PADDING_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_PADDING_FILTERS = ("center", "format", "indent")
_WIDE = re.compile(r"\d{4}|\*")


def _is_small(operator: str, left: Any, right: Any) -> bool:
    if operator == "%":
        return not (isinstance(left, str) and _WIDE.search(left))
    if operator == "*" and isinstance(left, str | list | tuple):
        return isinstance(right, int) and len(left) * right <= 10_000
    if not (isinstance(left, int | float) and isinstance(right, int | float)):
        return False
    return abs(left) < 2**31 and abs(right) < (2**31 if operator == "*" else 64)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """As in transformers: plain JSON, where Jinja's own filter escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=None if indent is None else min(indent, 16), separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
