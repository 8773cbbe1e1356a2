"""What grammars let through, and that hostile ones are bounded."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from device.grammar import Grammars
from device.vocabulary import Vocabulary
from protos.errors import InvalidInput
from tests.support.grammars import BYTES, END, LARK, lark, played


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(BYTES)


def test_only_what_fits_comes_and_then_the_end(grammars: Grammars) -> None:
    matcher = grammars.compile(f'{LARK}start: "yes" | "no"')
    allowed = {tuple(answer): set(np.flatnonzero(matcher.fresh().allowed(answer))) for answer in ([], [*b"ye"], [*b"yes"], [*b"no"])}
    assert allowed == {(): {*b"yn"}, tuple(b"ye"): {*b"s"}, tuple(b"yes"): {END, END + 1}, tuple(b"no"): {END, END + 1}}


def test_it_follows_from_grammar_and_answer_alone(grammars: Grammars) -> None:
    """So a ring that goes on with an answer gives what the first would have given."""
    matcher = grammars.compile(lark({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}))
    answer = [*b'{"a":12']
    step_by_step = matcher.fresh()
    masks = [step_by_step.allowed(answer[:length]) for length in range(len(answer) + 1)]
    for length, mask in enumerate(masks):
        assert np.array_equal(matcher.fresh().allowed(answer[:length]), mask)


def test_an_answer_that_does_not_fit_is_refused(grammars: Grammars) -> None:
    matcher = grammars.compile(lark({"type": "integer"})).fresh()
    with pytest.raises(InvalidInput, match="the answer's format cannot be kept") as caught:
        matcher.allowed([*b"x"])
    assert caught.value.advice
    with pytest.raises(InvalidInput):
        matcher.allowed([*b"x1"])


def test_numbers_without_a_token_and_control_tokens_never_come() -> None:
    odd = Grammars(Vocabulary([b"a", b"", b"<|user|>", b"b", b"a", b"<end>"], [2, 5], [5, 900]))
    matcher = odd.compile(f"{LARK}start: /(?s:.+)/")
    assert set(np.flatnonzero(matcher.allowed([]))) == {0, 3, 4}, "what is written alike may come both ways"
    assert set(np.flatnonzero(matcher.allowed([4]))) == {0, 3, 4, 5}
    with pytest.raises(InvalidInput, match="no token that ends an answer"):
        Grammars(Vocabulary([b"a"], [], [7]))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "string", "pattern": "("}, "unclosed group|regex parse error"),
        ({"$ref": "#/nowhere"}, "does not exist"),
        ({"not": {"type": "string"}}, "Unimplemented keys"),
    ],
)
def test_what_is_no_schema_says_so_in_a_line(grammars: Grammars, schema: Any, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as caught:
        grammars.compile(lark(schema))
    assert "\n" not in caught.value.detail
    assert len(caught.value.detail) < 300


def nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE = {
    "many properties": {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(3000)}},
    "many choices": {"enum": [f"{number}" * 20 for number in range(3000)]},
    "counting regex": {"type": "string", "pattern": "(.*a.{30}b.*){10}"},
    "backtracking regex": {"type": "string", "pattern": "^(a|b|ab)*(a?){40}a{40}[0-9a-z]{1,400}x$"},
    "long text": {"type": "string", "minLength": 1_000_000},
    "many items": {"type": "array", "items": {"type": "string"}, "minItems": 1_000_000},
    "deep": nested(60),
    "product": {"allOf": [{"properties": {f"p{a}_{b}": {"type": "string"} for b in range(20)}} for a in range(30)]},
    "union": {"anyOf": [{"properties": {f"k{a}": {"type": "string"}, "b": {"maxLength": a, "type": "string"}}} for a in range(300)]},
    "recursion": {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/a"}}, {"type": "null"}]}}},
    "chain": {"$ref": "#/$defs/a0", "$defs": {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(400)} | {"a400": {"type": "null"}}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_one_is_refused_or_takes_little_time(grammars: Grammars, name: str) -> None:
    began = time.process_time()
    with suppress(InvalidInput):
        matcher = grammars.compile(lark(HOSTILE[name])).fresh()
        answer: list[int] = []
        random = np.random.default_rng(1)
        for _ in range(100):
            token = int(random.choice(np.flatnonzero(matcher.allowed(answer))))
            if token >= END:
                break
            answer.append(token)
    assert time.process_time() - began < 5


def test_a_text_that_is_too_long_is_not_looked_at(grammars: Grammars) -> None:
    with pytest.raises(InvalidInput, match="262,144 are the most"):
        grammars.compile(lark({"enum": ["x" * (1 << 18)]}))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_drawn_at_random_fits_a_schema(grammars: Grammars, seed: int) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["ä", "b"]}, "minItems": 1, "maxItems": 3},
            "at": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": False},
        },
        "required": ["name", "age", "tags", "at"],
        "additionalProperties": False,
    }
    found = json.loads(played(grammars.compile(lark(schema)), seed))
    assert found.keys() == {"name", "age", "tags", "at"}
    assert len(found["name"]) <= 8
    assert 0 <= found["age"] <= 150
    assert isinstance(found["age"], int)
    assert 1 <= len(found["tags"]) <= 3
    assert {*found["tags"]} <= {"ä", "b"}
    assert isinstance(found["at"]["x"], int | float)
