"""Stop strings: what is shown never depends on how the text was cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.text.stops import StopStrings
from protos.errors import InvalidInput

texts = st.text("ab\n", max_size=20)
stops = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


def run(stop_strings: list[str], pieces: list[str]) -> tuple[str, bool]:
    stream = StopStrings(stop_strings)
    shown = "".join(stream.push(piece) for piece in pieces)
    return shown + stream.finish(), stream.stopped


def expected(stop_strings: list[str], text: str) -> tuple[str, bool]:
    """By trying each end in turn: the first end of a stop string, of the longest one that ends there."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stop_strings if text[:end].endswith(stop)]
        if ending:
            return text[: end - len(max(ending, key=len))], True
    return text, False


@given(stops, st.lists(texts, max_size=6))
def test_any_cut_gives_what_the_whole_text_gives(stop_strings: list[str], pieces: list[str]) -> None:
    assert run(stop_strings, pieces) == expected(stop_strings, "".join(pieces))


@given(stops, texts)
def test_character_by_character(stop_strings: list[str], text: str) -> None:
    assert run(stop_strings, list(text)) == expected(stop_strings, text)


@given(stops, texts)
def test_no_more_is_held_back_than_could_begin_a_stop_string(stop_strings: list[str], text: str) -> None:
    stream = StopStrings(stop_strings)
    shown = "".join(stream.push(character) for character in text)
    if not stream.stopped:
        held = text[len(shown) :]
        assert held == "" or any(stop.startswith(held) for stop in stop_strings)


def test_unarmed_a_stop_string_is_text_and_its_begin_is_still_held() -> None:
    stream = StopStrings(["END"])
    assert stream.push("END EN", armed=False) == "END "
    assert stream.push("D more") == ""
    assert stream.stopped


def test_an_example() -> None:
    stream = StopStrings(["\nUser:", "END"])
    assert stream.push("Hello") == "Hello"
    assert stream.push("\nUs") == ""
    assert stream.push("eful") == "\nUseful"
    assert stream.push(" E") == " "
    assert stream.push("NDless") == "E"[:0]
    assert stream.stopped
    assert stream.push("more") == stream.finish() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a stop string is empty"):
        StopStrings(["a", ""])
