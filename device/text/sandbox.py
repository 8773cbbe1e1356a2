"""Jinja as chat templates of the Hugging Face hub expect it, without Python's internals. Light: it runs in a process of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TooLong(Exception):
    """The output is longer than it may be."""


def compile_template(source: str, now: Callable[[], datetime]) -> jinja2.Template:
    """With `raise_exception`, `strftime_now`, `tojson` and loop controls. Raises jinja2.TemplateError."""
    # Block trimming and loop controls as transformers' apply_chat_template sets them: templates are written for that. Nothing is computed
    # while a template is compiled: that would be outside every bound.
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], optimized=False)
    environment.filters["tojson"] = _tojson
    for name in _PADDING_FILTERS:
        del environment.filters[name]
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: now().strftime(format)
    return environment.from_string(source)


def render(template: jinja2.Template, variables: Mapping[str, Any], most_characters: int) -> str:
    """Raises TooLong, and whatever a template can: it is a program."""
    pieces: list[str] = []
    total = 0
    for piece in template.generate(**variables):
        total += len(piece)
        if total > most_characters:
            raise TooLong
        pieces.append(piece)
    return "".join(pieces)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


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
