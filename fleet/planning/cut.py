"""The exact cut of a row of layers over devices, by dynamic programming on integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Table: TypeAlias = "NDArray[np.int64]"

# A cost no plan can have; two of them still add up within 64 bits.
FORBIDDEN = 1 << 60


@dataclass(frozen=True)
class Option:
    """What one device would take, in integer units, for every run of layers it might get; FORBIDDEN where it does not fit.

    `head` [L+1]: layers [0, stop) with both ends of the model; `body` [L+1, L+1]: layers [first, stop). `*_ns` is time, `*_cost` what is
    summed.
    """

    head_ns: Table
    body_ns: Table
    head_cost: Table
    body_cost: Table


@dataclass(frozen=True)
class Cut:
    """Stages in ring order: (index of the option, first layer, stop layer)."""

    stages: tuple[tuple[int, int, int], ...]
    score: tuple[int, ...]  # what was minimised, most important first


def cheapest(options: Sequence[Option], stages: int, *, limit_ns: int = FORBIDDEN) -> Cut | None:
    """Exactly `stages` devices at the lowest sum of costs; among equals the fastest slowest stage, then the most even. None: nothing fits.

    No stage may take longer than `limit_ns`. The head may be any device; the others follow in the order given, so for layers that all cost
    the same this is the optimum, and for layers that differ the optimum among rings in that order. Ties go to the device given first.
    """
    return _best(options, stages, lambda ns, cost: (_forbid(cost, ns > limit_ns), ns, _squares(ns)), (np.add, np.maximum, np.add))


def fastest_slowest_stage_ns(options: Sequence[Option], stages: int) -> int | None:
    """The lowest time the slowest of `stages` devices can have. None: nothing fits."""
    cut = _best(options, stages, lambda ns, _cost: (ns,), (np.maximum,))
    return cut.score[0] if cut else None


_Combine: TypeAlias = "np.ufunc"
_Levels: TypeAlias = "tuple[Table, ...]"


def _best(
    options: Sequence[Option], stages: int, levels_of: Callable[[Table, Table], _Levels], combine: tuple[_Combine, ...]
) -> Cut | None:
    heads = [levels_of(option.head_ns, option.head_cost) for option in options]
    bodies = [levels_of(option.body_ns, option.body_cost) for option in options]
    best: Cut | None = None
    tried: set[bytes] = set()
    for index, head in enumerate(heads):
        kind = options[index].head_ns.tobytes() + options[index].head_cost.tobytes() + options[index].body_ns.tobytes()
        kind += options[index].body_cost.tobytes()
        if kind in tried:  # a device like an earlier one makes no better head
            continue
        tried.add(kind)
        cut = _with_head(index, head, bodies, stages, combine)
        if cut and (best is None or cut.score < best.score):
            best = cut
    return best


def _with_head(head: int, first: _Levels, bodies: Sequence[_Levels], stages: int, combine: tuple[_Combine, ...]) -> Cut | None:
    """The best cut whose stage 0 is option `head`. State: (stages so far, layers so far) -> the levels of the best way there."""
    size = first[0].shape[0]
    state = [np.full((stages, size), FORBIDDEN, dtype=np.int64) for _ in combine]
    for level, row in zip(state, first, strict=True):
        level[0] = np.minimum(row, FORBIDDEN)
    came_from: list[tuple[int, Table]] = []
    for index, body in enumerate(bodies):
        if index == head or stages == 1:
            continue
        longer, origin = _extend([level[:-1] for level in state], body, combine)
        better = _less(longer, [level[1:] for level in state])
        for level, candidate in zip(state, longer, strict=True):
            level[1:] = np.where(better, candidate, level[1:])
        came_from.append((index, np.where(better, origin, -1)))
    score = tuple(int(level[-1, -1]) for level in state)
    if score[0] >= FORBIDDEN:
        return None
    count, stop, ring = stages - 1, size - 1, []
    for index, origin in reversed(came_from):
        if count and origin[count - 1, stop] >= 0:
            first_layer = int(origin[count - 1, stop])
            ring.append((index, first_layer, stop))
            count, stop = count - 1, first_layer
    return Cut(((head, 0, stop), *reversed(ring)), score)


def _extend(state: Sequence[Table], body: _Levels, combine: tuple[_Combine, ...]) -> tuple[list[Table], Table]:
    """One more stage on every state [count, first]: the best levels per [count, stop], and the `first` that gave them."""
    longer: list[Table] = []
    equal = None
    for level, table, operation in zip(state, body, combine, strict=True):
        reached = np.minimum(operation(level[:, :, None], table[None]), FORBIDDEN)
        if equal is not None:
            reached = np.where(equal, reached, FORBIDDEN)
        lowest = reached.min(axis=1)
        equal = (reached == lowest[:, None, :]) & (True if equal is None else equal)
        longer.append(lowest)
    assert equal is not None
    return longer, equal.argmax(axis=1).astype(np.int64)


def _less(left: Sequence[Table], right: Sequence[Table]) -> NDArray[np.bool_]:
    """Lexicographically, element by element."""
    less = np.zeros(left[0].shape, dtype=np.bool_)
    equal = np.ones(left[0].shape, dtype=np.bool_)
    for a, b in zip(left, right, strict=True):
        less |= equal & (a < b)
        equal &= a == b
    return less


def _forbid(table: Table, where: NDArray[np.bool_]) -> Table:
    return np.where(where, FORBIDDEN, table)


def _squares(ns: Table) -> Table:
    """Of microseconds, so that sums stay within 64 bits."""
    microseconds: Table = np.minimum(ns, 10**11) // 1000
    return microseconds**2
