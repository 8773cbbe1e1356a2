"""Formats of answers: whatever a grammar lets through is read as it was meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from device.grammar import Grammars
from device.text.calls import read_calls, tools_told
from device.text.formats import CallForm, Format, grammar_of, names_of
from device.text.thoughts import thought_and_said
from protos.errors import InvalidInput
from tests.support.grammars import BYTES, played


def tool(name: str, parameters: Any = None) -> str:
    function = {"name": name} if parameters is None else {"name": name, "parameters": parameters}
    return json.dumps({"type": "function", "function": function})


WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["C", "F"]},
        "at": {"$ref": "#/$defs/place"},
        "where": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2},
    },
    "required": ["city", "days"],
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}},
}
PLAIN = {**WEATHER, "properties": {name: one for name, one in WEATHER["properties"].items() if name != "at"}}  # type: ignore[attr-defined]
ZIP = {"type": "object", "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}}, "required": ["zip"]}
TOOLS = (tool("get_weather", WEATHER), tool("plain", PLAIN), tool("ping"), tool("set_zip", ZIP), tool("free", {"type": "object"}))


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(BYTES)


def made(grammars: Grammars, wish: Format, form: CallForm = CallForm.JSON, seed: int = 0, **thought: bool) -> str:
    text = grammar_of(wish, form, **{"in_thought": False, "may_think": False, **thought})
    return played(grammars.compile(text), seed)


@pytest.mark.parametrize("form", CallForm)
def test_every_call_is_read_and_fits_its_schema(grammars: Grammars, form: CallForm) -> None:
    for seed in range(30):
        wanted = names_of(TOOLS)[seed % 5 :]
        answer = made(grammars, Format(tools=TOOLS, called=wanted), form, seed)
        said, calls = read_calls(answer, tools_told(TOOLS))
        assert said == "", answer
        assert 1 <= len(calls) <= 8
        assert {call.name for call in calls} <= {*wanted}
        for call in calls:
            arguments = json.loads(call.arguments)
            if call.name in ("get_weather", "plain"):
                assert arguments.keys() <= WEATHER["properties"].keys()  # type: ignore[attr-defined]
                assert isinstance(arguments["city"], str)
                assert 1 <= arguments["days"] <= 14
                assert arguments.get("unit", "C") in ("C", "F")
                assert all(place.keys() == {"x"} for place in arguments.get("where", ()))
            elif call.name == "set_zip":
                assert len(arguments["zip"]) == 5
            elif call.name == "ping":
                assert arguments == {}


@pytest.mark.parametrize("form", CallForm)
def test_one_tool_is_called_where_it_is_named_and_once_where_only_one_may(grammars: Grammars, form: CallForm) -> None:
    for seed in range(10):
        answer = made(grammars, Format(tools=TOOLS, called=("ping",), parallel=False), form, seed)
        assert [call.name for call in read_calls(answer, tools_told(TOOLS))[1]] == ["ping"]


def test_glm_45s_own_form_is_used_where_it_can_say_what_the_schema_says() -> None:
    text = grammar_of(Format(tools=TOOLS, called=("plain", "set_zip")), CallForm.TAGS, in_thought=False, may_think=False)
    assert "<arg_key>city</arg_key>" in text
    assert "<arg_key>zip</arg_key>" not in text, "a pattern of a text between tags is nothing that a grammar could keep"


def test_json_of_a_schema_has_no_blanks_to_get_lost_in(grammars: Grammars) -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}, "minItems": 2}}})
    found = [made(grammars, Format(schema=schema), seed=seed) for seed in range(10)]
    assert all(text == json.dumps(json.loads(text), ensure_ascii=False) or '"' in text for text in found)
    assert not any("  " in text or "\n" in text for text in found if '"b' not in text and "a" in json.loads(text))


@pytest.mark.parametrize("schema", ["true", "{}", '{"type": "object"}'])
def test_any_json_will_do_where_nothing_is_asked_of_it(grammars: Grammars, schema: str) -> None:
    json.loads(made(grammars, Format(schema=schema), seed=3))


def test_a_thought_comes_first_and_may_say_anything(grammars: Grammars) -> None:
    wish = Format(schema='{"type": "integer", "minimum": 0, "maximum": 9}')
    for thought, begin in (({"in_thought": True}, ""), ({"may_think": True}, "<think>")):
        text = grammar_of(wish, CallForm.JSON, **{"in_thought": False, "may_think": False, **thought})
        matcher = grammars.compile(text)
        answer = played(matcher, 1, begin=f"{begin}so {{<b>}}</think>\n".encode())
        parted = thought_and_said(answer, inside=not begin)
        assert parted.thought == "so {<b>}"
        assert 0 <= json.loads(parted.said) <= 9
    assert 0 <= json.loads(played(matcher, 2, begin=b"7")) <= 9, "it need not think"


def test_either_json_or_a_call(grammars: Grammars) -> None:
    wish = Format(schema='{"enum": [1]}', tools=TOOLS, called=("ping",))
    assert {made(grammars, wish, seed=seed)[:1] for seed in range(10)} == {"1", "<"}


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (Format(schema="{"), "the answer's schema is not JSON"),
        (Format(schema="[1]"), "the answer's schema is no JSON schema"),
        (Format(tools=(tool("a", [1]),), called=("a",)), "the parameters of a are no JSON object"),
    ],
)
def test_what_is_no_schema(wish: Format, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        grammar_of(wish, CallForm.JSON, in_thought=False, may_think=False)
