from __future__ import annotations

import pytest
import typer

from fleet.cli.options import parse_duration, parse_ids, parse_names, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("1 KiB", 1024),
        ("2GiB", 2 << 30),
        ("2G", 2 << 30),
        ("2GB", 2 * 10**9),
        ("0.5 MiB", 1 << 19),
        ("7b", 7),
        ("1tib", 1 << 40),
        ("2.0", 2),
        ("1.7KiB", 1740),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 XiB", "1e9", "0", "0GiB", "0.0", "1.5", "1.5b", "0.0001KiB", "99999999T"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1s", "1w", "m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_duration(text)


@pytest.mark.parametrize(("text", "why"), [("0s", "0s is out of range"), ("31d", "at most 30d"), ("9" * 400 + "d", "at most 30d")])
def test_a_duration_out_of_range_says_which_it_may_be(text: str, why: str) -> None:
    with pytest.raises(typer.BadParameter, match=why):
        parse_duration(text, 30 * 86400)


def test_lists() -> None:
    assert parse_names(" a, b,,") == ("a", "b")
    assert parse_names(None) == ()
    for nothing in ("", ",", " , "):
        with pytest.raises(typer.BadParameter, match="no names"):
            parse_names(nothing)
    assert parse_ids("1, 2,3") == (1, 2, 3)
    assert parse_ids(None) == ()
    for wrong in ("1,x", "-1", str(1 << 32)):
        with pytest.raises(typer.BadParameter):
            parse_ids(wrong)
