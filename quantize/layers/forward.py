"""A decoder's layer in float64, each matrix used when it is there: what a calibration runs while an import reads its checkpoint once."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from protos.manifest import ModelConfig
from quantize.blocks import Floats
from quantize.layers.positions import rotary_tables

Doubles: TypeAlias = "npt.NDArray[np.float64]"
# A layer asks for (name of a matrix in the layer, what it is multiplied with [tokens, in]) and is sent the product [tokens, out], a bias of
# the same name ("qkv.bias" of "qkv.weight") included.
Steps: TypeAlias = "Generator[tuple[str, Doubles], Doubles, None]"


@dataclass
class LayerRun:
    """One layer on the residual stream `hidden` [tokens, H] of one causal sequence, which it changes in place.

    `vectors` holds the layer's norms and biases by their names in the layer. `attend` leaves the largest magnitudes that keys and values
    reach, [kv_heads x head_dim]. Of a prefix that sees all of itself, the first `apart` tokens see none but themselves.
    """

    config: ModelConfig
    hidden: Doubles
    vectors: dict[str, Floats] = field(default_factory=dict)
    key_reach: Doubles | None = None
    value_reach: Doubles | None = None
    apart: int = 0

    def rms_norm(self, name: str, rows: Doubles | None = None) -> Doubles:
        """Of `rows`, or of the residual stream."""
        rows = self.hidden if rows is None else rows
        mean: Doubles = np.mean(np.square(rows), axis=-1, keepdims=True)
        gain: Doubles = self.vectors[name].astype(np.float64)
        normed: Doubles = gain * rows / np.sqrt(mean + self.config.norm_epsilon)
        return normed

    def layer_norm(self, name: str) -> Doubles:
        """Of the residual stream; gain and bias are `name`.gain and `name`.bias."""
        centred = self.hidden - self.hidden.mean(axis=-1, keepdims=True)
        normed: Doubles = centred / np.sqrt(np.mean(np.square(centred), axis=-1, keepdims=True) + self.config.norm_epsilon)
        return normed * self.vectors[f"{name}.gain"] + self.vectors[f"{name}.bias"]

    def attend(self, qkv: Doubles, query_norm: str | None = None, key_norm: str | None = None) -> Doubles:
        """Attention of [tokens, q + k + v] with rotary positions, if any, causal unless the tokens are a prefix that sees itself; the
        names are of norms of each query and each key head."""
        config = self.config
        count, shared = len(qkv), config.heads // config.kv_heads
        heads = qkv.reshape(count, -1, config.head_dim).transpose(1, 0, 2)
        queries, keys, values = np.split(heads, [config.heads, config.heads + config.kv_heads])
        queries = self.rms_norm(query_norm, queries) if query_norm else queries
        keys = self.rms_norm(key_norm, keys) if key_norm else keys
        self.key_reach = self._reach(keys)
        self.value_reach = np.abs(values).max(axis=1).reshape(-1)
        queries, keys = (self._rotate(states) for states in (queries, keys))
        hidden = np.triu(np.full((count, count), -np.inf), 1)
        if config.prefix_whole:
            hidden[...] = 0
            hidden[: self.apart, self.apart :] = -np.inf
        attended: Doubles = np.empty((config.heads, count, config.head_dim))
        for head, query in enumerate(queries):
            scores = query @ keys[head // shared].T / np.sqrt(config.head_dim) + hidden
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            attended[head] = odds / odds.sum(axis=1, keepdims=True) @ values[head // shared]
        return attended.transpose(1, 0, 2).reshape(count, -1)

    def _pairs(self) -> tuple[slice, slice]:
        """Places in a head of the first and the second members of the pairs that turn."""
        size = self.config.rotary_dim
        return (slice(0, size // 2), slice(size // 2, size)) if self.config.rotary_halves else (slice(0, size, 2), slice(1, size, 2))

    def _rotate(self, states: Doubles) -> Doubles:
        """Rotary positions of [heads, tokens, head_dim]."""
        if not self.config.rotary_dim:
            return states
        first, second = self._pairs()
        tables = rotary_tables(replace(self.config, max_positions=states.shape[1]))
        cos, sin = (table[:, : self.config.rotary_dim // 2] for table in tables)
        turned = states.copy()
        turned[..., first] = states[..., first] * cos - states[..., second] * sin
        turned[..., second] = states[..., second] * cos + states[..., first] * sin
        return turned

    def _reach(self, keys: Doubles) -> Doubles:
        """[kv_heads x head_dim] of keys [kv_heads, tokens, head_dim] before their rotation: the largest value that each element can get at
        any position. A pair turns within its length."""
        first, second = self._pairs()
        reach: Doubles = np.abs(keys).max(axis=1)
        reach[:, first] = reach[:, second] = np.hypot(keys[..., first], keys[..., second]).max(axis=1)
        return reach.reshape(-1)


def gelu(values: Doubles) -> Doubles:
    """x times the normal distribution's share below x."""
    erf: Doubles = np.vectorize(math.erf, otypes=[np.float64])(values / math.sqrt(2.0))
    return 0.5 * values * (1 + erf)


def swiglu(gate_up: Doubles) -> Doubles:
    """[…, gate + up] -> […, intermediate]."""
    gate, up = np.split(gate_up, 2, axis=-1)
    product: Doubles = gate / (1 + np.exp(-gate)) * up
    return product
