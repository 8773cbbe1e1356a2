"""Calls read back from answers in every form, and what is none left as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.text.calls import read_calls, tools_told

STRING, INTEGER = {"type": "string"}, {"type": "integer"}
TOOLS: dict[str, Any] = {
    "get_weather": {"type": "object", "properties": {"city": STRING, "days": INTEGER}},
    "get_weather_map": {},
    "ping": {"type": "object", "properties": {}},
    "set_zip": {"properties": {"code": STRING, "note": STRING, "count": INTEGER, "body": {"type": "object"}}},
}


def tagged(name: str, *pairs: tuple[str, str], newline: str = "\n") -> str:
    written = "".join(f"<arg_key>{key}</arg_key>{newline}<arg_value>{value}</arg_value>{newline}" for key, value in pairs)
    return f"<tool_call>{name}{newline}{written}</tool_call>"


def read(answer: str) -> tuple[str, list[tuple[str, Any]]]:
    said, calls = read_calls(answer, TOOLS)
    return said, [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize(
    ("answer", "said", "calls"),
    [
        (tagged("set_zip", ("code", "01234"), ("note", "true"), ("count", "3"), ("body", '{"a": 1}')), "",
         [("set_zip", {"code": "01234", "note": "true", "count": 3, "body": {"a": 1}})]),
        (tagged("set_zip", ("code", '"quoted"'), ("note", "1.0")), "", [("set_zip", {"code": '"quoted"', "note": "1.0"})]),
        (tagged("set_zip", ("code", " a\nb ")), "", [("set_zip", {"code": " a\nb "})]),
        (tagged("set_zip", ("code", "he said </tool_call> loudly")), "", [("set_zip", {"code": "he said </tool_call> loudly"})]),
        (tagged("set_zip", ("code", "A1"), newline="") + tagged("set_zip", ("code", "B2"), newline=""), "",
         [("set_zip", {"code": "A1"}), ("set_zip", {"code": "B2"})]),
        ("\n" + tagged("ping"), "", [("ping", {})]),
        (tagged("ping", newline=""), "", [("ping", {})]),
        ("I look.\n" + tagged("ping") + "\nDone.", "I look.\n\nDone.", [("ping", {})]),
        ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ulm"}}\n</tool_call>', "", [("get_weather", {"city": "Ulm"})]),
        ('<tool_call>[{"name": "ping", "arguments": "{}"}, {"name": "get_weather", "parameters": {"days": 2}}]</tool_call>', "",
         [("ping", {}), ("get_weather", {"days": 2})]),
    ],
)  # fmt: skip
def test_calls_between_tags(answer: str, said: str, calls: list[tuple[str, Any]]) -> None:
    assert read(answer) == (said, calls)


@pytest.mark.parametrize(
    ("answer", "said", "calls"),
    [
        ('get_weather\n{"city": "Ulm"}', "", [("get_weather", {"city": "Ulm"})]),
        ('\nget_weather \n {"city": "Ulm"}\n', "", [("get_weather", {"city": "Ulm"})]),
        ('get_weather\n{"city": "Ulm"}get_weather\n{"city": "Bonn"}', "",
         [("get_weather", {"city": "Ulm"}), ("get_weather", {"city": "Bonn"})]),
        ('get_weather\n{"city": "Ulm"}\nget_weather_map\n{"city": "{"}\nping\n{}', "",
         [("get_weather", {"city": "Ulm"}), ("get_weather_map", {"city": "{"}), ("ping", {})]),
        ('get_weather\n{"city": "Ulm"}\n<|assistant|>ping\n{}', "", [("get_weather", {"city": "Ulm"}), ("ping", {})]),
        ('I look.get_weather\n{"city": "Ulm"}', "I look.", [("get_weather", {"city": "Ulm"})]),
        ('看一下。\nget_weather\n{"city": "Ulm"}', "看一下。", [("get_weather", {"city": "Ulm"})]),
    ],
)  # fmt: skip
def test_calls_by_lines(answer: str, said: str, calls: list[tuple[str, Any]]) -> None:
    assert read(answer) == (said, calls)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "\nIt snows.",
        "get_weather",
        "get_weather\nis a tool",
        'other\n{"city": "Ulm"}',
        'get_weather\n{"city": "Ul',
        'get_weather\n{"days": NaN}',
        'get_weather\n{"days": 1e999}',
        'get_weather\n{"city": "Ulm"}\nis how you call it.',
        'Say get_weather\n{"city": "Ulm"}',
        'Thus:\n```\nget_weather\n{"city": "Ulm"}\n```',
        "<tool_call>other\n</tool_call>",
        "<tool_call>set_zip\n<arg_key>code</arg_key>\n<arg_value>12",
        "<tool_call>set_zip\n<arg_key>code</arg_key>\n<arg_value>12</arg_value>",
        "<tool_call>set_zip\n<arg_key>code</arg_key>\n</tool_call>",
        "<tool_call>set_zipcode</arg_key><arg_value>Z9</arg_value></tool_call>",
        "<tool_call>set_zip\n<arg_value>12</arg_value>\n</tool_call>",
        "<tool_call>set_zip\ncode=12\n</tool_call>",
        "<tool_call>set_zip\n<arg_key>code</arg_key>\n<arg_value>12</arg_value>\nand more\n</tool_call>",
        "<tool_call>set_zip<arg_key>code</arg_key><arg_value>1<arg_key>note</arg_key><arg_value>2</arg_value></tool_call>",
        '<tool_call>{"name": "ping", "arguments": {}</tool_call>',
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "ping"}</tool_call>',
        '<tool_call>{"name": "ping", "arguments": "{"}</tool_call>',
        '<tool_call>[{"name": "ping", "arguments": {}}, {}]</tool_call>',
        "<tool_call>" + "[" * 100_000,
    ],
)
def test_what_is_no_whole_call_is_said(answer: str) -> None:
    assert read_calls(answer, TOOLS) == (answer, ())


def test_whole_calls_are_made_beside_damaged_ones() -> None:
    nope = tagged("nope")
    assert read(f"\n{tagged('ping')}\n{nope}") == (nope, [("ping", {})])
    assert read('ping\n{}get_weather\n{"city": "Ul') == ('get_weather\n{"city": "Ul', [("ping", {})])
    assert read('I look.\nping\n{}\nnope\n{"a": 1}') == ('I look.\nnope\n{"a": 1}', [("ping", {})])


def test_the_schemas_are_those_of_the_tools() -> None:
    weather = {"type": "function", "function": {"name": "get_weather", "parameters": TOOLS["get_weather"]}}
    assert tools_told([json.dumps(weather), '{"function": {"name": "ping"}}', '{"function": {"name": "x", "parameters": null}}']) == {
        "get_weather": TOOLS["get_weather"],
        "ping": {},
        "x": {},
    }


values = st.text(max_size=20).filter(lambda text: "<arg_value>" not in text and "</arg_value>" not in text)


@given(
    st.lists(st.dictionaries(st.sampled_from(["code", "note"]), values, max_size=2), min_size=1, max_size=3), st.sampled_from(["", "\n"])
)
def test_texts_come_back_as_they_were_written(written: list[dict[str, str]], newline: str) -> None:
    answer = newline.join(tagged("set_zip", *one.items(), newline=newline) for one in written)
    assert read(answer) == ("", [("set_zip", one) for one in written])


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "answer",
    [
        "<tool_call>get_weather" * 20_000,
        "<tool_call>get_weather" + "<arg_key>a</arg_key><arg_value>" * 20_000 + "</tool_call>",
        "<tool_call>get_weather" + "<arg_key>a</arg_key>" * 20_000 + "</tool_call>",
        "<tool_call>get_weather<arg_key>a</arg_key><arg_value>" * 20_000 + "</arg_value>",
        '<tool_call>{"a": "' * 20_000,
        "get_weather\n{" * 20_000,
        "get_weather" + " \n" * 20_000,
        "get_weather\n{}\n" * 20_000 + "x",
    ],
    ids=["calls", "values", "keys", "ends", "json", "lines", "space", "rest"],
)
def test_an_answer_that_repeats_itself_takes_no_time(answer: str) -> None:
    assert read_calls(answer, TOOLS)[1] == ()
