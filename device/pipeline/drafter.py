"""Drafts without a model: what came behind the longest earlier match of a text's last tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from protos.decoding import MOST_RUN_ROWS

MOST_DRAFTED = MOST_RUN_ROWS - 1
# As Draft.match of what nothing else could stand in the place of: surer than any match.
FORCED_MATCH = MOST_RUN_ROWS
# Earlier places of the text's last two tokens that are compared; the latest first, which in code and lists is mostly the longest too.
_PLACES = 8
_TOKEN_BITS = 32


@dataclass(frozen=True)
class Draft:
    """Tokens that may come next; `match`: so many tokens before them were found elsewhere with the same ones behind."""

    tokens: tuple[int, ...] = ()
    match: int = 0


NOTHING = Draft()


class Drafter(Protocol):
    """Of one sequence. What it proposes changes the speed alone, never the text."""

    def extend(self, tokens: Iterable[int]) -> None:
        """The text goes on by these."""
        ...

    def propose(self) -> Draft:
        """At most MOST_DRAFTED tokens behind the text so far."""
        ...


class SuffixMatches:
    """Longest suffix match over prompt and answer: a draft is no longer than its match, since longer ones seldom hold to their end
    (Saxena, Prompt Lookup Decoding, 2023, with the match's length as the bound).

    A token costs one look-up when it comes, a proposal _PLACES comparisons of MOST_DRAFTED tokens at most, however long the text.

        >>> matches = SuffixMatches()
        >>> matches.extend([1, 2, 3, 4, 5, 1, 2, 3])
        >>> matches.propose()
        Draft(tokens=(4, 5, 1), match=3)
    """

    def __init__(self) -> None:
        self._text: list[int] = []
        self._before: list[int] = []  # where the two tokens that end at each place ended before; -1: nowhere
        self._ends: dict[int, int] = {}  # by two tokens: the last place where they end
        self._single: dict[int, int] = {}  # by token: its last place but for the text's end
        self._earlier = -1  # where the last token was before

    def extend(self, tokens: Iterable[int]) -> None:
        text = self._text
        for token in tokens:
            place = len(text)
            pair = (text[-1] << _TOKEN_BITS | token) if text else -1
            self._earlier = self._single.get(token, -1)
            self._single[token] = place
            self._before.append(self._ends.get(pair, -1) if text else -1)
            self._ends[pair] = place
            text.append(token)

    def propose(self) -> Draft:
        text = self._text
        if not text or self._earlier < 0:
            return NOTHING
        place, best, longest = self._before[-1], self._earlier, 1
        for _ in range(_PLACES):
            if place < 0 or longest == MOST_DRAFTED:
                break
            length = self._match(place)
            if length > longest:
                best, longest = place, length
            place = self._before[place]
        drafted: list[int] = []
        for ahead in range(1, longest + 1):
            # A text that repeats itself may go on beyond its own end.
            at = best + ahead
            drafted.append(text[at] if at < len(text) else drafted[at - len(text)])
        return Draft(tuple(drafted), longest)

    def _match(self, place: int) -> int:
        """How many tokens up to `place` are the text's last."""
        text, end = self._text, len(self._text) - 1
        length = 0
        while length < MOST_DRAFTED and length <= place and text[place - length] == text[end - length]:
            length += 1
        return length
