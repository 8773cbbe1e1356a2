"""How many drafts a step carries: as many as are expected to pay, by what became of those before and by what rows cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from device.pipeline.drafter import FORCED_MATCH, MOST_DRAFTED, NOTHING, Draft, Drafter
from protos.even import even_up

# A step's time is that of its rows and of so many more, which the weights' own traffic takes: fitted to runs of 2 to 128 rows of a 1.5B and
# a 135M model on two cores (benchmarks/README.md, "Speculation"), both within 10 %. A ring's hops come on top (see `Steps`).
FIXED_ROWS = 9.2
# What may be learned of it: a busy machine's hiccups say anything.
LEAST_FIXED_ROWS, MOST_FIXED_ROWS = 4.0, 60.0
# By the match's length, so often a draft's token is expected to hold before any was tried, as if seen `_PRIOR` times.
_EXPECTED = ((FORCED_MATCH, 0.97), (8, 0.85), (4, 0.7), (2, 0.4), (1, 0.2))
_PRIOR = 2.0
# What lies further back counts less by this factor with each token that was judged: a text's habits change within some 20 tokens.
_FADES = 0.95


@dataclass(frozen=True)
class Acceptance:
    """Of the drafts of one sequence, by the length of the match that they came from: how many tokens were judged, and how many held."""

    judged: tuple[float, ...] = (0.0,) * len(_EXPECTED)
    held: tuple[float, ...] = (0.0,) * len(_EXPECTED)

    def probability(self, match: int) -> float:
        """That a draft's token holds, if those before it do."""
        kind = _kind(match)
        return (self.held[kind] + _PRIOR * _EXPECTED[kind][1]) / (self.judged[kind] + _PRIOR)

    def after(self, draft: Draft, came: Sequence[int]) -> Acceptance:
        """Once the tokens `came` where `draft` was proposed, whether it was fed or not: a draft that was not costs nothing to judge."""
        held = 0
        for drafted, token in zip(draft.tokens, came, strict=False):
            if drafted != token:
                break
            held += 1
        judged = min(held + 1, len(draft.tokens), len(came))
        if not judged:
            return self
        kind, fades = _kind(draft.match), _FADES**judged
        return Acceptance(
            _with(self.judged, kind, self.judged[kind] * fades + judged), _with(self.held, kind, self.held[kind] * fades + held)
        )


def worth(probability: float, proposed: int, others: int, fixed_rows: float = FIXED_ROWS) -> int:
    """How many of `proposed` tokens to draft, where each holds with `probability` if those before it do: that gives the most tokens for
    its time, in a step with `others` rows of other sequences. The second row of a run is computed whether it is a draft or not.

    >>> worth(0.9, 15, 0), worth(0.5, 15, 0), worth(0.1, 15, 0)
    (9, 3, 1)
    """
    best, most, expected, chance = 0, 0.0, 1.0, 1.0
    for drafts in range(proposed + 1):
        if drafts:
            chance *= probability
            expected += chance
        rate = expected / (fixed_rows + others + even_up(1 + drafts))
        if rate > most:
            best, most = drafts, rate
    return best


@dataclass(frozen=True)
class Steps:
    """What decode steps of a pipeline took: so many rows' time is fixed in each, the weights' traffic and the ring's hops."""

    seconds_per_row: float | None = None
    fixed_rows: float = FIXED_ROWS
    least: tuple[int, float] | None = None  # the fewest rows seen, and their mean seconds
    most: tuple[int, float] | None = None

    def measured(self, rows: int, seconds: float) -> Steps:
        """After a step with `rows` rows that was back after `seconds`."""
        least, most = _nearer(self.least, rows, seconds, fewer=True), _nearer(self.most, rows, seconds, fewer=False)
        if most[0] < least[0] + 4 or most[1] <= least[1]:
            return replace(self, least=least, most=most)
        each = (most[1] - least[1]) / (most[0] - least[0])
        return Steps(each, min(max(least[1] / each - least[0], LEAST_FIXED_ROWS), MOST_FIXED_ROWS), least, most)


def _nearer(before: tuple[int, float] | None, rows: int, seconds: float, *, fewer: bool) -> tuple[int, float]:
    if before is None or (rows < before[0] if fewer else rows > before[0]):
        return rows, seconds
    if rows != before[0]:
        return before
    return rows, before[1] + 0.1 * (seconds - before[1])


@dataclass(eq=False)
class Speculation:
    """Of one sequence: its drafter, and how its drafts fared."""

    drafter: Drafter
    acceptance: Acceptance = Acceptance()
    drafted: int = 0  # rows
    accepted: int = 0  # of them
    _last: Draft = field(default=NOTHING)

    def drafts(self, room: int, others: int, fixed_rows: float) -> tuple[int, ...]:
        """To feed behind the known token: at most `room`."""
        self._last = draft = self.drafter.propose()
        proposed = min(len(draft.tokens), room, MOST_DRAFTED)
        if proposed <= 0:
            return ()
        return draft.tokens[: worth(self.acceptance.probability(draft.match), proposed, others, fixed_rows)]

    def came(self, tokens: Sequence[int], fed: int) -> None:
        """The text goes on by these, of a step that fed so many drafts."""
        self.acceptance = self.acceptance.after(self._last, tokens)
        self.drafted += fed
        self.accepted += len(tokens) - 1
        self._last = NOTHING
        self.drafter.extend(tokens)


def _kind(match: int) -> int:
    return next(kind for kind, (least, _) in enumerate(_EXPECTED) if match >= least)


def _with(values: tuple[float, ...], index: int, value: float) -> tuple[float, ...]:
    return (*values[:index], value, *values[index + 1 :])
