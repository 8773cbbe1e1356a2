"""A series of values as a line of blocks."""

from __future__ import annotations

import codecs
import math
import sys
from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-=+*#@"  # where the encoding of stdout has no blocks


def spark(values: Sequence[float | None], width: int, *, blocks: str = BLOCKS) -> str:
    """At most `width` characters, each the mean of the values that fall on it, from 0 or the least below it to the greatest; a blank where
    there is none.

    >>> spark([0, 1, None, 2, 4], 5), spark([1, 3, None, None], 2), spark([], 5)
    ('▁▂ ▄█', '█ ', '')
    """
    cells = [_mean(values[begin:stop]) for begin, stop in _cuts(len(values), width)]
    known = [cell for cell in cells if cell is not None]
    least, greatest = min(known, default=0.0), max(known, default=0.0)
    floor = min(least, 0.0)
    span = greatest - floor
    top = len(blocks) - 1
    return "".join(" " if cell is None else blocks[math.floor(top * (cell - floor) / span) if span else 0] for cell in cells)


def blocks_of_stdout() -> str:
    try:
        BLOCKS.encode(codecs.lookup(sys.stdout.encoding or "utf-8").name)
    except UnicodeEncodeError:
        return PLAIN
    return BLOCKS


def _cuts(count: int, width: int) -> list[tuple[int, int]]:
    cells = min(count, width)
    bounds = [number * count // cells for number in range(cells + 1)] if cells else [0]
    return list(pairwise(bounds))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
