"""Drafts: what came behind the longest earlier match, however the text was told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from device.pipeline.drafter import MOST_DRAFTED, NOTHING, SuffixMatches

texts = st.lists(st.integers(0, 3), max_size=40)


def longest(text: list[int]) -> int:
    """Of all suffixes that are found before the text's end, at most MOST_DRAFTED."""
    ends = range(len(text) - 1)
    lengths = (next((length for length in range(end + 1) if text[end - length] != text[len(text) - 1 - length]), end + 1) for end in ends)
    return min(max(lengths, default=0), MOST_DRAFTED)


@given(text=texts, cut=st.integers(0, 40))
def test_a_draft_is_what_came_behind_an_earlier_match(text: list[int], cut: int) -> None:
    matches = SuffixMatches()
    matches.extend(text[:cut])
    matches.extend(text[cut:])
    draft = matches.propose()
    if draft == NOTHING:
        assert longest(text) == 0
        return
    assert len(draft.tokens) == draft.match <= longest(text)
    whole, suffix = text + list(draft.tokens), text[len(text) - draft.match :]
    places = [end for end in range(draft.match, len(text)) if whole[end - draft.match : end] == suffix]
    assert any(whole[end : end + draft.match] == list(draft.tokens) for end in places)


@given(text=st.lists(st.integers(0, 1 << 20), max_size=60, unique=True), again=st.integers(2, 20))
def test_the_longest_match_is_found_among_few_places(text: list[int], again: int) -> None:
    repeated = text + text[: min(again, len(text))]
    matches = SuffixMatches()
    matches.extend(repeated)
    assert matches.propose().match == longest(repeated)


def test_a_text_that_repeats_itself_goes_on_beyond_its_end() -> None:
    matches = SuffixMatches()
    matches.extend([1, 2, 3] * 6)
    assert matches.propose().tokens == (1, 2, 3) * 5
    matches.extend([9])
    assert matches.propose() == NOTHING
