from __future__ import annotations

import json

import pytest

from fleet.cli.output import count_text, figure, in_order, print_json, wrapped
from tests.support.fake_coordinator import DEVICE


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (12345.6, "12,346"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123"), (0.00001234, "1.2e-05")],
)
def test_figures(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_counts() -> None:
    assert (count_text(1, "device"), count_text(1200, "device")) == ("1 device", "1,200 devices")


def test_a_long_line_breaks_between_words_beneath_its_beginning() -> None:
    assert wrapped("short", 80) == "short"
    assert wrapped("  - a reason that is too long", 16) == "  - a reason\n    that is too\n    long"
    assert wrapped("  do this", 80) == "  do this"
    assert wrapped("see http://127.0.0.1:7400/openapi.json", 20).splitlines() == ["see", "http://127.0.0.1:7400/openapi.json"]
    assert wrapped("\nstopping ...", 80) == "\nstopping ..."


def test_names_are_sorted_as_people_count() -> None:
    assert sorted(["dev-10", "dev-2", "gate", "dev-1"], key=in_order) == ["dev-1", "dev-2", "dev-10", "gate"]


def test_json_of_views_within_dictionaries(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"devices": (DEVICE,)}])
    [found] = json.loads(capsys.readouterr().out)
    assert found["devices"][0]["name"] == DEVICE.name
