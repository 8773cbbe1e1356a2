"""Several versions of one model over the same text, layer by layer: one layer of each is in memory, whatever the model's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import numpy as np

from quantize.blocks import Floats
from quantize.quality.scores import ROWS_AT_ONCE, Doubles
from quantize.quality.windows import TokenIds, Window

Rows = Floats | TokenIds
# Rows of that window from its start, token ids [S] or the residual stream [S, H], to the residual stream.
Run = Callable[[Rows, Window], Floats]
# Rows to logits [S, V].
Head = Callable[[Rows], Floats]
Progress = Callable[[int, int], None]


class Version(Protocol):
    """A model that can be run in pieces; those that are walked together have as many layers."""

    @property
    def layers(self) -> int: ...

    def layer(self, number: int) -> AbstractContextManager[Run]:
        """Layer 0 takes token ids."""
        ...

    def head(self) -> AbstractContextManager[Head]: ...


class Walk:
    """What each of `versions` makes of each window, and how far the others' residual streams are from the first's."""

    def __init__(self, versions: Sequence[Version], windows: Sequence[Window], progress: Progress = lambda done, total: None) -> None:
        """Runs all layers; `progress` gets (steps done, in all), the heads included. Rows of all windows are kept: 4 x H bytes a token."""
        self._versions = versions
        self._progress = progress
        self._windows = windows
        self._total = (versions[0].layers + 1) * len(windows)
        self.layer_squares: Doubles = np.zeros((len(versions) - 1, versions[0].layers, len(windows), 2))
        """[version - 1, layer, window]: sums of squares of the difference of the streams after that layer, and of the first's stream."""
        self._rows: list[list[Rows]] = [[window.token_ids for window in windows] for _ in versions]
        for layer in range(versions[0].layers):
            self._step(layer)

    def logits(self) -> Iterator[tuple[Floats, ...]]:
        """For each window, each version's logits [S, V]."""
        with ExitStack() as stack:
            heads = [stack.enter_context(version.head()) for version in self._versions]
            for window, rows in enumerate(zip(*self._rows, strict=True)):
                yield tuple(_in_pieces(head, own) for head, own in zip(heads, rows, strict=True))
                self._progress(self._versions[0].layers * len(self._rows[0]) + window + 1, self._total)

    def _step(self, layer: int) -> None:
        with ExitStack() as stack:
            runs = [stack.enter_context(version.layer(layer)) for version in self._versions]
            for window in range(len(self._rows[0])):
                for run, rows in zip(runs, self._rows, strict=True):
                    rows[window] = run(rows[window], self._windows[window]).copy()
                truth = self._rows[0][window]
                square = np.sum(np.square(truth), dtype=np.float64)
                for version, rows in enumerate(self._rows[1:]):
                    error = np.sum(np.square(rows[window] - truth), dtype=np.float64)
                    self.layer_squares[version, layer, window] = error, square
                self._progress(layer * len(self._rows[0]) + window + 1, self._total)


def _in_pieces(head: Head, rows: Rows) -> Floats:
    """Few rows at a time: a run keeps buffers of its own for as many logits."""
    return np.concatenate([head(rows[start : start + ROWS_AT_ONCE]).copy() for start in range(0, len(rows), ROWS_AT_ONCE)])
