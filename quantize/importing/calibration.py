"""Scales of an int8 KV cache and golden rows, from one pass of the decoder over a few tokens while its weights are written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protos.manifest import ModelConfig
from quantize.architectures.registry import architecture_of
from quantize.blocks import Floats
from quantize.layers.reference import BlockRun, Doubles, Steps

# Over what the calibration's few tokens reach: on the default model 1.25 loses least of 1, 1.25, 1.5 and 2 (KL; benchmarks/README.md).
_MARGIN = 1.25
# What a quiet column counts at least, as a share of the average: 256 tokens do not tell that it always is.
_FLOOR = 0.1
# Of a scale or an importance: coarse, so that BLAS's order of summation, which differs between processors, does not show in a digest.
_SIGNIFICANT_BITS = 8
_SMALLEST_SCALE = 2.0**-20
# As many of the tokens' rows are kept for devices to check themselves by; an even number.
GOLDEN_TOKENS = 8


class Calibration:
    """Runs the model on `token_ids` in float64, each weight used when it is written: an import reads its checkpoint once.

    Tensors must come in the order of the parts: rows of the embedding, then each layer's vectors and matrices, matrices by slabs of rows.
    A slab costs len(token_ids) multiply-accumulates per weight.
    """

    def __init__(self, config: ModelConfig, token_ids: Sequence[int]) -> None:
        self._config = config
        self._layers = architecture_of(config).layer
        self._token_ids = np.array(token_ids)
        self._layer = -1
        self._run = self._new_run(np.zeros((len(token_ids), config.hidden_size)))
        self._steps: Steps | None = None
        self._asked: tuple[str, Doubles] | None = None
        self._outputs: list[Doubles] = []
        self._stream: list[Doubles] = []

    @property
    def key_scales(self) -> Floats:
        """[kv_heads x head_dim]: the layer's, from the matrix on that is multiplied with what was attended to ("o.weight")."""
        return _scales(self._run.key_reach, self._config.kv_size)

    @property
    def value_scales(self) -> Floats:
        return _scales(self._run.value_reach, self._config.kv_size)

    def embed(self, start: int, rows: Floats) -> None:
        """Rows [start, …) of the embedding."""
        here = (self._token_ids >= start) & (self._token_ids < start + len(rows))
        self._run.hidden[here] = rows[self._token_ids[here] - start]

    def add_to_tokens(self, rows: Floats) -> None:
        """A table of learned positions, row i for token i; the last is for all that are beyond it."""
        self._run.hidden += rows[np.minimum(np.arange(len(self._token_ids)), len(rows) - 1)]

    def keep(self, layer: int, tensor: str, values: Floats) -> None:
        """A layer's norm, bias or other tensor that is not stored by blocks, by its name in the layer."""
        self._enter(layer)
        self._run.vectors[tensor] = values

    def begin(self, layer: int, tensor: str) -> Floats:
        """A layer's matrix comes next, by its name in the layer. [in]: how much an error in each of its columns counts, which is the mean
        square of what it is multiplied with, 1 on average; AWQ (arXiv:2306.00978) and llama.cpp's importance matrix weigh by the like."""
        self._enter(layer)
        self._advance()
        assert self._asked is not None
        asked, states = self._asked
        if asked != tensor:
            raise KeyError(tensor)
        squares = np.square(states).sum(axis=0)
        mean = squares.mean()
        shares = squares / mean if mean > 0 else np.ones_like(squares)  # nothing may have come to an expert
        return _coarse(_FLOOR + (1 - _FLOOR) * shares)

    def multiply(self, rows: Floats) -> None:
        """The next rows of the matrix that was begun, [any, in]."""
        assert self._asked is not None
        self._outputs.append(self._asked[1] @ rows.astype(np.float64).T)

    def settle(self) -> Doubles:
        """Ends the layer whose last tensor was given; the rows that `resume` takes, [any, H]."""
        if self._steps is not None:
            self._advance()
        self._layer, self._steps = -1, None
        return np.concatenate([self._run.hidden, *self._stream])

    def resume(self, rows: Doubles) -> None:
        """Goes on where another calibration of the same tokens had `settle`d."""
        count = len(self._token_ids)
        self._run = self._new_run(rows[:count].copy())
        self._stream = list(rows[count:].reshape(-1, min(count, GOLDEN_TOKENS), rows.shape[1]))

    def stream(self) -> list[Doubles]:
        """After the last matrix: the residual stream [tokens, H] before layer 0 and after each, of the first `GOLDEN_TOKENS` tokens."""
        self.settle()
        return [*self._stream, self._run.hidden[:GOLDEN_TOKENS].copy()]

    def _enter(self, layer: int) -> None:
        """Ends the layer before at the first tensor of a new one."""
        if layer == self._layer:
            return
        if self._steps is not None:
            self._advance()
        self._stream.append(self._run.hidden[:GOLDEN_TOKENS].copy())
        self._layer, self._run, self._steps = layer, self._new_run(self._run.hidden), None

    def _new_run(self, hidden: Doubles) -> BlockRun:
        """The golden tokens are a text of their own to a device, so they see no others here."""
        return BlockRun(hidden, apart=GOLDEN_TOKENS)

    def _advance(self) -> None:
        """Gives the layer the product that it waits for; what it asks for next."""
        if self._steps is None:
            self._steps = self._run.steps(self._layers(self._config, self._layer))
            self._asked = next(self._steps)
        else:
            assert self._asked is not None
            product = np.concatenate(self._outputs, axis=-1)
            bias = self._run.vectors.get(self._asked[0].removesuffix("weight") + "bias")
            try:
                self._asked = self._steps.send(product if bias is None else product + bias)
            except StopIteration:
                self._asked = None
        self._outputs = []


def _scales(reach: Doubles | None, size: int) -> Floats:
    """fp32 [size], the largest magnitudes with the margin / 127."""
    largest = np.zeros(size) if reach is None else reach
    return _coarse(np.maximum(_MARGIN * largest / 127, _SMALLEST_SCALE))


def _coarse(values: Doubles) -> Floats:
    """Rounded up to few bits."""
    mantissas, exponents = np.frexp(values)
    steps = 2**_SIGNIFICANT_BITS
    rounded: Floats = np.ldexp(np.ceil(mantissas * steps) / steps, exponents).astype(np.float32)
    return rounded
