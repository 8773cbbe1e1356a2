"""Scales of an int8 KV cache, from one pass of the decoder over a few tokens while its weights are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from protos.manifest import ModelConfig
from quantize.blocks import Floats
from quantize.positions import rotary_tables

# Over what the calibration's few tokens reach: on the default model 1.25 loses least of 1, 1.25, 1.5 and 2 (KL; benchmarks/README.md).
_MARGIN = 1.25
# Of a scale: coarse, so that BLAS's order of summation, which differs between processors, does not show in an artifact's digest.
_SIGNIFICANT_BITS = 8
_SMALLEST_SCALE = 2.0**-20

Doubles = npt.NDArray[np.float64]


class Calibration:
    """Runs the model on `token_ids` in float64, each weight used when it is written: an import reads its checkpoint once.

    Tensors must come in the order of the parts: rows of the embedding, then each layer's norms and matrices, matrices by slabs of rows.
    A slab costs len(token_ids) multiply-accumulates per weight.
    """

    def __init__(self, config: ModelConfig, token_ids: Sequence[int]) -> None:
        self._config = config
        self._token_ids = np.array(token_ids)
        self._hidden: Doubles = np.zeros((len(token_ids), config.hidden_size))
        cos, sin = rotary_tables(replace(config, max_positions=len(token_ids)))
        self._turns = (cos + 1j * sin)[:, : config.rotary_dim // 2].astype(np.complex128)
        self._vectors: dict[str, Floats] = {}
        self._input: Doubles = self._hidden
        self._outputs: list[Doubles] = []
        self.key_scales: Floats = np.zeros(config.kv_size, np.float32)
        self.value_scales: Floats = np.zeros(config.kv_size, np.float32)

    def embed(self, start: int, rows: Floats) -> None:
        """Rows [start, …) of the embedding."""
        here = (self._token_ids >= start) & (self._token_ids < start + len(rows))
        self._hidden[here] = rows[self._token_ids[here] - start]

    def keep(self, tensor: str, values: Floats) -> None:
        """A layer's norm or bias, by its name in the layer."""
        self._vectors[tensor] = values

    def multiply(self, tensor: str, start: int, rows: Floats) -> None:
        """Rows [start, …) of a layer's matrix [out, in], by its name in the layer. `key_scales` and `value_scales` [kv_heads x head_dim]
        are the layer's when its "o.weight" begins."""
        if start == 0:
            self._input = self._input_of(tensor)
            self._outputs = []
        self._outputs.append(self._input @ rows.astype(np.float64).T)

    def _input_of(self, tensor: str) -> Doubles:
        """What this matrix is multiplied with, from the outputs of the one before it."""
        before = np.concatenate(self._outputs, axis=1) if self._outputs else None
        match tensor:
            case "qkv.weight":
                if before is not None:
                    self._hidden += before
                return self._norm("input_norm")
            case "o.weight":
                assert before is not None
                return self._attend(before + self._vectors["qkv.bias"] if "qkv.bias" in self._vectors else before)
            case "gate_up.weight":
                assert before is not None
                self._hidden += before
                return self._norm("post_norm")
            case "down.weight":
                assert before is not None
                gate, up = np.split(before, 2, axis=1)
                product: Doubles = gate / (1 + np.exp(-gate)) * up
                return product
        raise KeyError(tensor)

    def _norm(self, name: str) -> Doubles:
        mean: Doubles = np.mean(np.square(self._hidden), axis=1, keepdims=True)
        gain: Doubles = self._vectors[name].astype(np.float64)
        normed: Doubles = gain * self._hidden / np.sqrt(mean + self._config.norm_epsilon)
        return normed

    def _attend(self, qkv: Doubles) -> Doubles:
        """Causal attention of [tokens, q + k + v]; sets the layer's scales."""
        config = self._config
        count, shared = len(qkv), config.heads // config.kv_heads
        heads = qkv.reshape(count, -1, config.head_dim).transpose(1, 0, 2)
        queries, keys, values = np.split(heads, [config.heads, config.heads + config.kv_heads])
        self.key_scales = _scales(_reach(keys, config.rotary_dim))
        self.value_scales = _scales(np.abs(values).max(axis=1))
        queries, keys = (self._rotate(states) for states in (queries, keys))
        future = np.triu(np.full((count, count), -np.inf), 1)
        attended: Doubles = np.empty((config.heads, count, config.head_dim))
        for head, query in enumerate(queries):
            scores = query @ keys[head // shared].T / np.sqrt(config.head_dim) + future
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            attended[head] = odds / odds.sum(axis=1, keepdims=True) @ values[head // shared]
        return attended.transpose(1, 0, 2).reshape(count, -1)

    def _rotate(self, states: Doubles) -> Doubles:
        """Rotary positions: pairs (2i, 2i + 1) of the first rotary_dim elements are complex numbers that turn."""
        size = self._config.rotary_dim
        turned = states.copy()
        turned[..., :size] = (states[..., :size].copy().view(np.complex128) * self._turns).view(np.float64)
        return turned


def _reach(keys: Doubles, rotary_dim: int) -> Doubles:
    """[kv_heads, head_dim] of keys [kv_heads, tokens, head_dim] before their rotation: the largest value that each element can get at any
    position. A pair turns within its length."""
    pairs = np.hypot(keys[..., 0:rotary_dim:2], keys[..., 1:rotary_dim:2]).max(axis=1)
    return np.concatenate([np.repeat(pairs, 2, axis=-1), np.abs(keys[..., rotary_dim:]).max(axis=1)], axis=-1)


def _scales(largest: Doubles) -> Floats:
    """fp32 [kv_heads x head_dim], `largest` with the margin / 127, rounded up to few bits."""
    mantissas, exponents = np.frexp(np.maximum(_MARGIN * largest.reshape(-1) / 127, _SMALLEST_SCALE))
    steps = 2**_SIGNIFICANT_BITS
    scales: Floats = np.ldexp(np.ceil(mantissas * steps) / steps, exponents).astype(np.float32)
    return scales
