"""Jinja as transformers' apply_chat_template sets it up: what renders there renders here. It runs in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TooLong(Exception):
    """The output is longer than it may be."""


def compile_template(source: str, now: Callable[[], datetime]) -> jinja2.Template:
    """With `raise_exception`, `strftime_now`, `tojson`, loop controls and `{% generation %}`.

    Raises jinja2.TemplateError, and what Python raises for code that is too deep or has too long numbers.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
    environment.filters["tojson"] = _tojson
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


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: marks for training what the assistant has said. It is written as it stands."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declares a set)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block as in transformers, so that a variable that is set inside stays inside.
        return jinja2.nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], str]) -> str:
        return caller()


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """As in transformers: plain JSON, where Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
