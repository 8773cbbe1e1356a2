"""Thought and answer, whole and as they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.text.thoughts import Piece, Thoughts, thought_and_said

texts = st.lists(st.sampled_from(["<think>", "</think>", "<th", "</", "ink>", "a", "b ", "\n", "\n\n", " "]), max_size=8).map("".join)


@pytest.mark.parametrize(
    ("text", "inside", "thought", "said"),
    [
        ("<think>weigh</think>\nThe answer is 5.", False, "weigh", "The answer is 5."),
        ("\n<think>\nweigh\n it \n</think>\n\n  Five.\n", False, "weigh\n it ", "  Five.\n"),
        ("weigh it</think>\nThe answer is 4.", True, "weigh it", "The answer is 4."),
        ("weigh it</think>\nThe answer is 4.", False, "weigh it", "The answer is 4."),
        ("</think>Four.", False, "", "Four."),
        ("<think>cut sho", False, "cut sho", ""),
        ("cut sho</thi", True, "cut sho</thi", ""),
        ("<think></think>\n", False, "", ""),
        ("\n\nFour.", False, "", "Four."),
        (" Four < five, or <think>?", False, "", " Four < five, or <think>?"),
        ("<thinking>", False, "", "<thinking>"),
        ("<think>a</think>b<think>c</think>d", False, "a", "b<think>c</think>d"),
        ("<thi", False, "", "<thi"),
        ("\n", False, "", ""),
        ("", True, "", ""),
    ],
)
def test_a_whole_answer(text: str, inside: bool, thought: str, said: str) -> None:
    assert thought_and_said(text, inside) == Piece(thought, said)


@given(texts, st.booleans(), st.lists(st.integers(1, 5), max_size=30))
def test_any_cut_gives_what_the_whole_gives(text: str, inside: bool, sizes: list[int]) -> None:
    if not inside and not text.lstrip().startswith("<think>"):
        text = text.replace("</think>", "")
    thoughts, pieces, rest = Thoughts(inside), [], text
    for size in sizes:
        pieces.append(thoughts.push(rest[:size]))
        rest = rest[size:]
    pieces += [thoughts.push(rest), thoughts.finish()]
    assert Piece("".join(piece.thought for piece in pieces), "".join(piece.said for piece in pieces)) == thought_and_said(text, inside)


def test_both_come_as_they_are_made() -> None:
    thoughts = Thoughts()
    told = [thoughts.push(text) for text in ("\n<think>", "step one ", "step two ", "\n", "</think>", "\nDone ", "and ", "dusted")]
    assert [piece.thought for piece in told] == ["", "step one ", "step two ", "", "", "", "", ""]
    assert [piece.said for piece in told] == ["", "", "", "", "", "Done ", "and ", "dusted"]
    assert thoughts.finish() == Piece()


def test_a_stray_end_behind_what_was_given_out_takes_nothing_back() -> None:
    thoughts = Thoughts()
    assert [thoughts.push(text).said for text in ("It is ", "</think>", "so.")] == ["It is ", "</think>", "so."]
