"""Every family's description holds together: what is read was made, once, and as wide as its reader takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

import pytest

from protos.manifest import ModelConfig
from quantize.architectures.registry import architecture_of
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
    Split,
    SplitHeads,
    SwiGlu,
    TensorParameter,
    caches,
    inputs,
    parameters,
)
from tests.quantize.families import CONFIGS


def widths(block: Block, given: Mapping[str, int]) -> dict[str, int]:
    """Elements of a row of each value; token ids count as one."""
    known = dict(given)
    for operator in block.operators:
        taken = [known[name] for name in inputs(operator)]
        for name, width in made(operator, taken, known).items():
            assert name not in known, f"{name} is written twice"
            known[name] = width
    return known


def made(operator: Operator, taken: list[int], known: Mapping[str, int]) -> dict[str, int]:
    match operator:
        case Embed():
            assert taken == [1]
            return {operator.output: operator.table.shape[1]}
        case LearnedPositions():
            assert {table.shape[1] for table in operator.tables} == set(taken)
        case Norm():
            assert taken == [operator.gain.shape[0] * (operator.heads or 1)]
            assert operator.bias is None or operator.bias.shape == operator.gain.shape
        case Linear():
            rows, columns = operator.weight.shape
            assert taken == [columns]
            assert operator.bias is None or operator.bias.shape == (rows,)
            return {operator.output: rows}
        case SplitHeads():
            sizes = [count * operator.head_dim for count in (operator.heads, operator.kv_heads, operator.kv_heads)]
            assert taken == [sum(sizes)]
            return dict(zip((operator.queries, operator.keys, operator.values), sizes, strict=True))
        case Split():
            assert taken == [sum(operator.widths)]
            return {name: width for name, width in zip(operator.outputs, operator.widths, strict=True) if name}
        case Join():
            return {operator.output: sum(taken)}
        case Rope():
            assert operator.rotary.dim % 2 == 0
        case Attention():
            kv_size = operator.kv_heads * operator.head_dim
            assert taken == [operator.heads * operator.head_dim, kv_size, kv_size]
            assert operator.cache.key_scale.shape == operator.cache.value_scale.shape == (kv_size,)
        case SwiGlu():
            assert taken == [2 * operator.width]
            return {operator.output: operator.width}
        case Gelu():
            assert taken == [operator.width]
        case Add():
            assert taken[0] == taken[1]
        case Mixture():
            assert taken == [operator.router.matrix.shape[1]]
            assert operator.router.bias.shape == (operator.router.count,)
            assert [expert.number for expert in operator.experts] == list(range(operator.router.count))
            for block in (operator.shared, *(expert.block for expert in operator.experts)):
                inner = widths(block, {block.input: taken[0]})
                assert inner[block.output] == taken[0]
                assert not (set(inner) - {block.input}) & set(known), "a value of the layer is written again within"
        case _:
            assert_never(operator)
    return {operator.output: taken[0]}


def blocks(config: ModelConfig) -> dict[str, Block]:
    architecture = architecture_of(config)
    layers = {f"layers.{number}": architecture.layer(config, number) for number in range(config.layers)}
    return {"embedding": architecture.embedding(config), **layers, "head": architecture.head(config)}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_read_was_made_and_is_as_wide(name: str) -> None:
    config = CONFIGS[name]
    for place, block in blocks(config).items():
        found = widths(block, {INPUT: 1 if place == "embedding" else config.hidden_size})
        assert found[block.output] == (config.vocab_size if place == "head" else config.hidden_size)
        read = {value for operator in block.operators for value in inputs(operator)}
        assert set(found) - read == {block.output}, "a value that nobody reads"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_parameter_is_used_once_and_a_layer_has_one_cache_in_its_first_part(name: str) -> None:
    config = CONFIGS[name]
    for place, block in blocks(config).items():
        used = [parameter.path for parameter in parameters(block)]
        assert len(set(used)) == len(used)
        kept = list(caches(block))
        assert len(kept) == place.startswith("layers.")
        assert all(cache.key_scale.part == next(parameters(block)).part for cache in kept)


@pytest.mark.parametrize("name", CONFIGS)
def test_without_an_operator_it_does_not_hold_together(name: str) -> None:
    config = CONFIGS[name]
    block = architecture_of(config).layer(config, config.layers - 1)
    for place in range(len(block.operators)):
        rest = replace(block, operators=block.operators[:place] + block.operators[place + 1 :])
        with pytest.raises(KeyError):
            assert widths(rest, {INPUT: config.hidden_size})[block.output]


def test_a_layer_over_a_latent_keeps_one_vector_of_a_token() -> None:
    config = CONFIGS["glm-4.7-flash"]
    for number in range(config.layers):
        (attention,) = (each for each in architecture_of(config).layer(config, number).operators if isinstance(each, Attention))
        assert attention.values_are_keys
        assert (attention.heads, attention.kv_heads, attention.head_dim, attention.scale) == (3, 1, 24 + 8, (12 + 8) ** -0.5)
    assert not any(
        attention.values_are_keys
        for other in CONFIGS.values()
        if other.latent is None
        for attention in architecture_of(other).layer(other, 0).operators
        if isinstance(attention, Attention)
    )


def test_a_tied_head_has_the_embeddings_matrix() -> None:
    for tied in (False, True):
        config = replace(CONFIGS["glm-edge"], tied_head=tied)
        *_, matrix = parameters(architecture_of(config).head(config))
        assert matrix.shared_from == ("embedding" if tied else "")


def test_matrices_are_stored_by_blocks_and_nothing_else() -> None:
    config = CONFIGS["glm-4.5-groups"]
    found = {parameter.path: parameter.by_blocks for parameter in parameters(architecture_of(config).layer(config, 1))}
    assert not any(found[f"attention.{name}"] for name in ("input_norm", "q_norm", "router", "router_bias"))
    assert all(found[name] for name in ("attention.qkv.weight", "attention.shared_down.weight", "experts.16-23.23.gate_up.weight"))
    assert TensorParameter("", "qkv.weight", (1, 1)).path == "qkv.weight"
