"""Drafts of an answer that keeps to a grammar: where one text alone may come, that is the draft."""

from __future__ import annotations

from collections.abc import Iterable

from device.pipeline.drafter import FORCED_MATCH, MOST_DRAFTED, Draft, Drafter
from device.pipeline.guides import Guide


class ForcedText:
    """What the grammar of `guide` forces behind `answer`, else what `otherwise` proposes.

    Which tokens a forced text is written in is the model's to say, and a token may reach beyond it; so these are drafts as others are, that
    mostly hold, and the answer is the one that comes without them.
    """

    def __init__(self, guide: Guide, answer: Iterable[int], otherwise: Drafter) -> None:
        self._guide = guide
        self._answer = list(answer)
        self._otherwise = otherwise

    def extend(self, tokens: Iterable[int]) -> None:
        news = list(tokens)
        self._answer += news
        self._otherwise.extend(news)

    def propose(self) -> Draft:
        forced = self._guide.forced(self._answer)[:MOST_DRAFTED]
        return Draft(tuple(forced), FORCED_MATCH) if forced else self._otherwise.propose()
