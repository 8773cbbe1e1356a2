"""What is wrong with a request, in a sentence that names the place and says what may stand there: pydantic's findings in a user's words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Found: TypeAlias = Mapping[str, Any]  # one of `ValidationError.errors()`
Steps: TypeAlias = tuple[str | int, ...]

_LONGEST_PLACE = 100  # of characters: a key may be as long as a body
_LONGEST_VALUE = 60
# What has to stand there, by pydantic's kind of problem: https://docs.pydantic.dev/latest/errors/validation_errors/
_TYPES = {
    "string": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object",
    "model": "an object",
    "model_attributes": "an object",
}
_LIMITS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda limit: f"above {limit['gt']:g}",
    "greater_than_equal": lambda limit: f"at least {limit['ge']}",
    "less_than": lambda limit: f"below {limit['lt']}",
    "less_than_equal": lambda limit: f"at most {limit['le']}",
    "finite_number": lambda limit: "a finite number",
    "literal_error": lambda limit: str(limit["expected"]),
    "string_pattern_mismatch": lambda limit: f"a string that matches {limit['pattern']}",
    "string_too_short": lambda limit: f"a string of at least {_counted(limit['min_length'], 'character')}",
    "string_too_long": lambda limit: f"a string of at most {_counted(limit['max_length'], 'character')}",
    "too_short": lambda limit: f"a list of at least {_counted(limit['min_length'], 'item')}",
    "too_long": lambda limit: f"a list of at most {_counted(limit['max_length'], 'item')}",
    "out_of_bounds": lambda limit: str(limit["allowed"]),
}
_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}


@dataclass(frozen=True)
class Problem:
    """`place` is written as OpenAI does, "messages[0].content"; "" is the whole request. `code` is OpenAI's word for what is wrong."""

    place: str
    sentence: str
    code: str


def first_problem(found: Sequence[Found], body: Any) -> Problem:
    """The first of pydantic's problems with `body`. A value that may be of several types has one or more for each of them, told as one."""
    first = found[0]
    steps: Steps = tuple(first["loc"])
    tag = _type_in(first, body)
    if tag is None:
        return _problem(steps, first["type"], first["input"], _expected(first))
    tried: dict[str | int, list[Found]] = {}
    for one in found:
        if tuple(one["loc"][:tag]) == steps[:tag]:
            tried.setdefault(one["loc"][tag], []).append({**one, "loc": (*one["loc"][:tag], *one["loc"][tag + 1 :])})
    of_that_type = [problems for problems in tried.values() if len(problems[0]["loc"]) > tag or not _is_of_type(problems[0])]
    if of_that_type:  # the one that it nearly is
        return first_problem(min(of_that_type, key=lambda problems: (len(problems), -_number(problems[0]))), body)
    allowed = dict.fromkeys(_expected(problems[0]) for problems in tried.values())
    return _problem(steps[:tag], first["type"], first["input"], " or ".join(allowed))


def shown(value: Any) -> str:
    """A value that was sent, in a few words."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {_counted(len(value), 'item')}" if value else "an empty list"
    text = json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _problem(steps: Steps, kind: str, given: Any, allowed: str) -> Problem:
    place = _place(steps)
    what = place or "the body"
    if kind == "missing":
        sentence = f"{what} is missing"
    elif kind == "extra_forbidden":
        sentence = f"{what} is not a field that is known here"
    else:
        sentence = f"{what} is {shown(given)}: it must be {allowed}"
    return Problem(place, " ".join(sentence.split()), _CODES.get(kind) or ("invalid_type" if kind.endswith("_type") else "invalid_value"))


def _expected(one: Found) -> str:
    kind = one["type"]
    if kind in _LIMITS:
        return _LIMITS[kind](one.get("ctx") or {})
    return next((words for name, words in _TYPES.items() if kind.startswith(f"{name}_")), f"another: {one['msg']}")


def _is_of_type(one: Found) -> bool:
    return str(one["type"]).endswith("_type")


def _number(one: Found) -> int:
    """How far in a list it is: what is wrong later is nearer to being right."""
    return max((step for step in one["loc"] if isinstance(step, int)), default=0)


def _type_in(one: Found, body: Any) -> int | None:
    """Where in pydantic's path the name of a type stands, which is no step in `body`; None where none does."""
    if not one["loc"] or one["loc"][0] != "body":
        return None
    value, last = body, len(one["loc"]) - 1
    for number, step in enumerate(one["loc"][1:], start=1):
        is_key = isinstance(value, dict) and step in value and (number != last or one["type"] in _CODES or value[step] is one["input"])
        if is_key or (isinstance(value, list) and isinstance(step, int)):
            value = value[step]
        elif number != last or one["type"] != "missing":
            return number
    return None


def _place(steps: Steps) -> str:
    words = ""
    for step in steps[1:]:  # the first says whether it is of the body, the path or the query
        words += f"[{step}]" if isinstance(step, int) else f".{step}"
    return words.lstrip(".")[:_LONGEST_PLACE].encode(errors="replace").decode()
