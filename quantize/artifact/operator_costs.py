"""Blocks as sums: what each operator multiplies, keeps and reads for one row, whatever runs it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import assert_never

from protos.manifest import ITEM_BYTES, Cost
from protos.physics.memory import kv_position_bytes
from quantize.artifact.schemes import Scheme
from quantize.layers.operators import (
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
)


@dataclass(frozen=True)
class OperatorCost:
    """Of one row in one operator; a mixture has one for its router, and one for each operator within.

    `part` keeps the parameters ("" too for an operator without any). `macs` are multiply-accumulates with matrices by blocks,
    `float32_macs` with others, `macs_per_position` those of attention with each position that it sees. `share` of all rows come here.
    """

    operator: Operator
    part: str = ""
    weight_bytes: int = 0  # resident
    read_bytes: int = 0
    macs: int = 0
    float32_macs: int = 0
    macs_per_position: int = 0
    kv_bytes_per_token: int = 0  # at fp32
    share: float = 1.0


def operator_costs(block: Block, scheme: Scheme, share: float = 1.0) -> Iterator[OperatorCost]:
    """In the operators' order, matrices stored as `scheme` says."""

    def read_whole(operator: Operator, *parameters: TensorParameter | None, macs: int = 0, float32_macs: int = 0) -> OperatorCost:
        size_bytes = sum(sum(stored_sizes(parameter, scheme)) for parameter in parameters if parameter)
        part = next(parameter.part for parameter in parameters if parameter)
        return OperatorCost(operator, part, size_bytes, size_bytes, macs, float32_macs, share=share)

    def read_a_row(operator: Operator, *tables: TensorParameter) -> OperatorCost:
        sizes = [(table.shape[0], stored_sizes(table, scheme)) for table in tables]
        row_bytes = sum(size // rows for rows, stored in sizes for size in stored)
        return OperatorCost(operator, tables[0].part, sum(sum(stored) for _, stored in sizes), row_bytes, share=share)

    for operator in block.operators:
        match operator:
            case Embed():
                yield read_a_row(operator, operator.table)
            case LearnedPositions():
                yield read_a_row(operator, *operator.tables)
            case Norm():
                yield read_whole(operator, operator.gain, operator.bias)
            case Linear():
                yield read_whole(operator, operator.weight, operator.bias, macs=math.prod(operator.weight.shape))
            case Attention():
                yield _attention_cost(operator, share)
            case Mixture():
                router = operator.router
                yield read_whole(operator, router.matrix, router.bias, float32_macs=math.prod(router.matrix.shape))
                yield from operator_costs(operator.shared, scheme, share)
                for expert in operator.experts:
                    yield from operator_costs(expert.block, scheme, share * (router.per_token / router.count))
            case SplitHeads() | Split() | Join() | Rope() | SwiGlu() | Gelu() | Add():
                yield OperatorCost(operator, share=share)
            case _:
                assert_never(operator)


def part_cost(costs: Iterable[OperatorCost]) -> Cost:
    """Of a part whose operators cost this; all of one share."""
    own = tuple(costs)
    (share,) = {cost.share for cost in own}
    return Cost(
        weight_bytes=sum(cost.weight_bytes for cost in own),
        read_bytes=round(sum(cost.read_bytes for cost in own) * share),
        macs=round(sum(cost.macs for cost in own) * share),
        kv_bytes_per_token=sum(cost.kv_bytes_per_token for cost in own),
    )


def stored_sizes(parameter: TensorParameter, scheme: Scheme) -> tuple[int, ...]:
    """Bytes of the tensors that it is stored as: by blocks levels, scales and zero points, else one."""
    if not (parameter.by_blocks and scheme.block_size):
        return (ITEM_BYTES["float32"] * math.prod(parameter.shape),)
    rows, columns = parameter.shape
    return tuple(ITEM_BYTES[dtype] * math.prod(shape) for dtype, shape in scheme.shapes(rows, columns).values())


def _attention_cost(attention: Attention, share: float) -> OperatorCost:
    """Per position: head_dim multiply-accumulates for the score and as many for the value, in each query head."""
    cache, item_bytes = attention.cache, ITEM_BYTES["float32"]
    scale_bytes = sum(item_bytes * math.prod(scale.shape) for scale in (cache.key_scale, cache.value_scale))
    return OperatorCost(
        attention,
        cache.key_scale.part,
        weight_bytes=scale_bytes,
        read_bytes=scale_bytes,
        macs_per_position=2 * attention.heads * attention.head_dim,
        kv_bytes_per_token=kv_position_bytes(attention.kv_heads, attention.head_dim, "float32", attention.values_are_keys),
        share=share,
    )
