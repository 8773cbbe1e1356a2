"""Blocks in numpy's float64, each matrix used when it is there: what a calibration runs while an import reads its checkpoint once."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from quantize.blocks import Floats
from quantize.layers.operators import (
    INPUT,
    Add,
    Attention,
    Block,
    Embed,
    Gelu,
    Join,
    LearnedPositions,
    Linear,
    Mixture,
    Norm,
    Operator,
    Rope,
    Rotary,
    Router,
    Split,
    SplitHeads,
    SwiGlu,
    inputs,
)
from quantize.layers.positions import turns

Doubles: TypeAlias = "npt.NDArray[np.float64]"
# A block asks for (name of a matrix in the layer, what it is multiplied with [tokens, in]) and is sent the product [tokens, out], a bias of
# the same name ("qkv.bias" of "qkv.weight") included.
Steps: TypeAlias = "Generator[tuple[str, Doubles], Doubles, None]"


@dataclass
class BlockRun:
    """One block on `hidden` [tokens, H] of one sequence, which is the block's output when it has run.

    `vectors` holds its norms, biases and router by their names in the layer. Attention leaves the largest magnitudes that keys and values
    reach, [kv_heads x head_dim]. Of a prefix that sees all of itself, the first `apart` tokens see none but themselves.
    """

    hidden: Doubles
    vectors: dict[str, Floats] = field(default_factory=dict)
    key_reach: Doubles | None = None
    value_reach: Doubles | None = None
    apart: int = 0

    def steps(self, block: Block) -> Steps:
        """Runs `block`, which is not an embedding, from product to product."""
        values = {INPUT: self.hidden}
        yield from self._run(block, values)
        self.hidden = values[block.output]

    def _run(self, block: Block, values: dict[str, Doubles]) -> Steps:
        """Fills `values`: rows [tokens, width] by name, of heads [heads, tokens, head_dim]. Each is dropped behind its last reader."""
        last = {name: place for place, operator in enumerate(block.operators) for name in inputs(operator)}
        for place, operator in enumerate(block.operators):
            yield from self._step(operator, values, block)
            for name in inputs(operator):
                if last[name] == place:
                    values.pop(name, None)

    def _step(self, operator: Operator, values: dict[str, Doubles], block: Block) -> Steps:
        match operator:
            case Norm():
                values[operator.output] = self._norm(operator, values[operator.input])
            case Linear():
                values[operator.output] = yield operator.weight.path, values[operator.input]
            case SplitHeads():
                values |= _split(operator, values[operator.input])
            case Split():
                cuts = np.cumsum(operator.widths)[:-1]
                pieces = zip(operator.outputs, np.split(values[operator.input], cuts, axis=-1), strict=True)
                values |= {name: piece for name, piece in pieces if name}
            case Join():
                values[operator.output] = np.concatenate([values[name] for name in operator.inputs], axis=-1)
            case Rope():
                values[operator.output] = self._turn(operator, values[operator.input], block)
            case Attention():
                queries = _by_heads(values[operator.queries], operator.heads)
                keys, own = (_by_heads(values[name], operator.kv_heads) for name in (operator.keys, operator.values))
                if self.key_reach is None:
                    self.key_reach = _reach(keys)
                self.value_reach = self.key_reach if operator.values_are_keys else _reach(own)
                values[operator.output] = self._attend(operator, queries, keys, own)
            case SwiGlu():
                values[operator.output] = swiglu(values[operator.input])
            case Gelu():
                values[operator.output] = gelu(values[operator.input])
            case Add():
                values[operator.output] = values[operator.stream] + values[operator.branch]
            case Mixture():
                yield from self._mix(operator, values)
            case Embed() | LearnedPositions():
                raise TypeError("rows of a table are looked up where the table is read")
            case _:
                assert_never(operator)

    def _norm(self, norm: Norm, rows: Doubles) -> Doubles:
        """Over the last axis."""
        if norm.bias:
            centred = rows - rows.mean(axis=-1, keepdims=True)
            plain: Doubles = centred / np.sqrt(np.mean(np.square(centred), axis=-1, keepdims=True) + norm.epsilon)
            return plain * self.vectors[norm.gain.path] + self.vectors[norm.bias.path]
        mean: Doubles = np.mean(np.square(rows), axis=-1, keepdims=True)
        gain: Doubles = self.vectors[norm.gain.path].astype(np.float64)
        normed: Doubles = gain * rows / np.sqrt(mean + norm.epsilon)
        return normed

    def _turn(self, rope: Rope, states: Doubles, block: Block) -> Doubles:
        """Of the heads that an attention of `block` reads."""
        reader = next(each for each in block.operators if isinstance(each, Attention) and rope.output in inputs(each))
        is_key = rope.output == reader.keys
        heads = _by_heads(states, reader.kv_heads if is_key else reader.heads)
        if is_key:
            self.key_reach = _reach(heads, rope.rotary)
        return _rotate(rope.rotary, heads)

    def _attend(self, attention: Attention, queries: Doubles, keys: Doubles, values: Doubles) -> Doubles:
        """[tokens, heads x head_dim]; causal unless the tokens are a prefix that sees itself."""
        count, shared = queries.shape[1], attention.heads // attention.kv_heads
        hidden = np.triu(np.full((count, count), -np.inf), 1)
        if not attention.causal:
            hidden[...] = 0
            hidden[: self.apart, self.apart :] = -np.inf
        divisor = np.sqrt(attention.head_dim) if attention.scale is None else 1 / attention.scale
        attended: Doubles = np.empty((attention.heads, count, attention.head_dim))
        for head, query in enumerate(queries):
            scores = query @ keys[head // shared].T / divisor + hidden
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            attended[head] = odds / odds.sum(axis=1, keepdims=True) @ values[head // shared]
        return attended.transpose(1, 0, 2).reshape(count, -1)

    def _mix(self, mixture: Mixture, values: dict[str, Doubles]) -> Steps:
        rows, router = values[mixture.input], mixture.router
        common = {mixture.shared.input: rows}
        yield from self._run(mixture.shared, common)
        mixed = common[mixture.shared.output]
        weights = _route(router, rows, self.vectors[router.matrix.path], self.vectors[router.bias.path])
        for expert in mixture.experts:
            chosen = np.flatnonzero(weights[:, expert.number])
            own = {expert.block.input: rows[chosen]}
            yield from self._run(expert.block, own)
            mixed[chosen] += weights[chosen, expert.number, None] * own[expert.block.output]
        values[mixture.output] = mixed


def gelu(values: Doubles) -> Doubles:
    """x times the normal distribution's share below x."""
    erf: Doubles = np.vectorize(math.erf, otypes=[np.float64])(values / math.sqrt(2.0))
    return 0.5 * values * (1 + erf)


def swiglu(gate_up: Doubles) -> Doubles:
    """[…, gate + up] -> […, intermediate]."""
    gate, up = np.split(gate_up, 2, axis=-1)
    product: Doubles = gate / (1 + np.exp(-gate)) * up
    return product


def _split(split: SplitHeads, rows: Doubles) -> dict[str, Doubles]:
    heads = rows.reshape(len(rows), -1, split.head_dim).transpose(1, 0, 2)
    pieces = np.split(heads, [split.heads, split.heads + split.kv_heads])
    return dict(zip((split.queries, split.keys, split.values), pieces, strict=True))


def _by_heads(rows: Doubles, heads: int) -> Doubles:
    """[heads, tokens, head_dim] of rows [tokens, heads x head_dim], or of what is so already."""
    return rows if rows.ndim == 3 else rows.reshape(len(rows), heads, -1).transpose(1, 0, 2)


def _pairs(rotary: Rotary) -> tuple[slice, slice]:
    """Places in a head of the first and the second members of the pairs that turn."""
    size = rotary.dim
    return (slice(0, size // 2), slice(size // 2, size)) if rotary.halves else (slice(0, size, 2), slice(1, size, 2))


def _reach(states: Doubles, rotary: Rotary | None = None) -> Doubles:
    """[heads x head_dim] of [heads, tokens, head_dim]: the largest magnitude that each element has, or can get when it is turned to any
    position. A pair turns within its length, times the rotation's magnitude."""
    reach: Doubles = np.abs(states).max(axis=1)
    if rotary:
        first, second = _pairs(rotary)
        length = rotary.scaling.magnitude if rotary.scaling else 1.0
        reach[:, first] = reach[:, second] = length * np.hypot(states[..., first], states[..., second]).max(axis=1)
    return reach.reshape(-1)


def _rotate(rotary: Rotary, states: Doubles) -> Doubles:
    """Of [heads, tokens, head_dim], the tokens at positions from 0 on."""
    first, second = _pairs(rotary)
    cos, sin = turns(rotary.dim, rotary.theta, states.shape[1], rotary.scaling)
    turned = states.copy()
    turned[..., first] = states[..., first] * cos - states[..., second] * sin
    turned[..., second] = states[..., second] * cos + states[..., first] * sin
    return turned


def _route(router: Router, rows: Doubles, matrix: Floats, bias: Floats) -> Doubles:
    """[rows, count]: each row's weight of each expert, zero of those not chosen."""
    scores: Doubles = 1 / (1 + np.exp(-(rows @ matrix.astype(np.float64).T)))
    merit = (scores + bias).reshape(len(rows), router.groups, -1)
    if router.groups > 1:
        sums = np.sort(merit, axis=-1)[..., -2:].sum(axis=-1)
        worse = np.argsort(-sums, axis=-1, kind="stable")[:, router.groups_per_token :]
        np.put_along_axis(merit, worse[..., None], -np.inf, axis=1)
    chosen = np.argsort(-merit.reshape(scores.shape), axis=-1, kind="stable")[:, : router.per_token]
    raw = np.take_along_axis(scores, chosen, axis=-1)
    shares = raw / (raw.sum(axis=-1, keepdims=True) + 1e-20) if router.normalized else raw
    weights: Doubles = np.zeros_like(scores)
    np.put_along_axis(weights, chosen, router.scale * shares, axis=-1)
    return weights
