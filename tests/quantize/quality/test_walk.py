"""Several versions side by side: what a walk gives is what each gives alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from quantize.blocks import Floats
from quantize.quality.walk import Head, Rows, Run, Walk
from quantize.quality.windows import Window

EMBEDDING = np.random.default_rng(0).standard_normal((11, 4)).astype(np.float32)
WINDOWS = [Window(np.arange(3)), Window(np.arange(5, 11), prefix=2)]


@dataclass
class Shifting:
    """Each layer adds `shift` to the stream; the head is the embedding's transpose. The array it answers with is its own."""

    shift: float
    open: int = 0
    most_open: int = 0
    buffer: Floats = field(default_factory=lambda: np.zeros((16, 4), np.float32))
    layers: int = 3
    asked: list[Window] = field(default_factory=list)

    @contextmanager
    def layer(self, number: int) -> Iterator[Run]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        yield lambda rows, window: self._run(number, rows, window)
        self.open -= 1

    @contextmanager
    def head(self) -> Iterator[Head]:
        yield lambda rows: rows @ EMBEDDING.T

    def _run(self, number: int, rows: Rows, window: Window) -> Floats:
        self.asked.append(window)
        stream = EMBEDDING[rows] if number == 0 else rows
        self.buffer[: len(rows)] = stream + np.float32(self.shift)
        return self.buffer[: len(rows)]


def test_logits_and_layer_errors() -> None:
    versions = [Shifting(0.0), Shifting(0.5), Shifting(0.0)]
    told: list[tuple[int, int]] = []
    walk = Walk(versions, WINDOWS, lambda done, total: told.append((done, total)))
    for window, found in zip(WINDOWS, walk.logits(), strict=True):
        for version, logits in zip(versions, found, strict=True):
            assert np.allclose(logits, (EMBEDDING[window.token_ids] + 3 * version.shift) @ EMBEDDING.T, atol=1e-5)
    for layer in range(3):
        for window, (error, square) in zip(WINDOWS, walk.layer_squares[0, layer], strict=True):
            assert error == pytest.approx(4 * len(window.token_ids) * (0.5 * (layer + 1)) ** 2, rel=1e-5)
            assert square == pytest.approx(np.square(EMBEDDING[window.token_ids]).sum(), rel=1e-5)
    assert not walk.layer_squares[1, :, :, 0].any()
    assert versions[0].asked == WINDOWS * 3
    assert told == [(done, 8) for done in range(1, 9)]


def test_one_layer_of_each_version_is_open_at_a_time() -> None:
    version = Shifting(0.0)
    Walk([version, version], WINDOWS)
    assert (version.open, version.most_open) == (0, 2)
