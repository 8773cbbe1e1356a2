"""Arguments typed by their schema."""

from __future__ import annotations

from typing import Any

import pytest

from device.text.arguments import typed_arguments

CODE = {"$ref": "#/$defs/Code"}
DEFS = {"Code": {"type": "string"}, "Loop": {"$ref": "#/$defs/Loop"}, "Count": {"type": "integer"}}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "90210", "90210"),
        ({"type": "string"}, '"Ulm"', '"Ulm"'),
        ({"type": "string"}, "null", "null"),
        ({"type": "string"}, ' {"a": 1}\n', ' {"a": 1}\n'),
        ({"type": "integer"}, " 42 ", 42),
        ({"type": "integer"}, "007", 7),
        ({"type": "integer"}, "3.0", 3),
        ({"type": "integer"}, "3.5", "3.5"),
        ({"type": "integer"}, "three", "three"),
        ({"type": "integer"}, "true", "true"),
        ({"type": "integer"}, "9" * 5000, "9" * 5000),
        ({"type": "number"}, "5", 5),
        ({"type": "number"}, "2.50", 2.5),
        ({"type": "number"}, "1e999", "1e999"),
        ({"type": "number"}, "true", "true"),
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "False", False),
        ({"type": "boolean"}, "1", "1"),
        ({"type": "null"}, "None", None),
        ({"type": "array", "items": {"type": "string"}}, '["1", 2]', ["1", 2]),
        ({"type": "array"}, "1, 2", "1, 2"),
        ({"type": "object"}, '{"a": {"b": null}}', {"a": {"b": None}}),
        ({"type": "object"}, "[" * 100_000, "[" * 100_000),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, '"null"', '"null"'),
        ({"type": ["string", "null"]}, "5", "5"),
        ({"type": "string", "nullable": True}, "null", None),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "5", 5),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, "[5]", [5]),
        ({"oneOf": [{"type": "string"}, CODE]}, "5", "5"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({"const": "5"}, "5", "5"),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, "5", "5"),
        (CODE, "5", "5"),
        ({"$ref": "#/$defs/Count"}, "5", 5),
        ({"$ref": "#/$defs/Loop"}, "5", 5),  # says nothing: by its look
        ({"$ref": "elsewhere#/x"}, "x", "x"),
        ({}, "5", 5),
        ({}, "Ulm", "Ulm"),
        ({}, '"Ulm"', '"Ulm"'),
        (None, "[1]", [1]),
        ({"type": 7, "anyOf": "x", "enum": None}, "5", 5),
    ],
)  # fmt: skip
def test_a_value_is_what_its_schema_says(schema: Any, text: str, value: Any) -> None:
    found = typed_arguments({"a": text}, {"properties": {"a": schema}, "$defs": DEFS})["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("parameters", "value"),
    [
        ({"additionalProperties": {"type": "string"}}, "5"),
        ({"properties": {"b": {"type": "string"}}, "additionalProperties": False}, 5),
        ({"properties": []}, 5),
        ({}, 5),
    ],
)
def test_a_name_that_the_schema_does_not_have(parameters: Any, value: Any) -> None:
    assert typed_arguments({"a": "5"}, parameters) == {"a": value}
