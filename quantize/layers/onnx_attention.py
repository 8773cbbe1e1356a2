"""Attention over a layer's cache in onnxruntime's operators."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from quantize.layers.graph_builder import GraphBuilder
from quantize.layers.operators import Attention, Rotary, TensorParameter
from quantize.layers.positions import columns_of
from quantize.parts import POSITIONS


def add_attention(builder: GraphBuilder, place: str, attention: Attention, heads: Sequence[str], rotary: Rotary | None, output: str) -> str:
    """`output`, float32 [batch, sequence, heads x head_dim]: grouped-query attention over the cache of `place`, which is updated in place.

    `heads` are the operator's first three inputs; it turns queries and keys as `rotary` says.
    """
    int8 = builder.kv_dtype == "int8"
    layer = place.removeprefix("layers.")
    past, present = [[f"{time}_{what}.{layer}" for what in ("key", "value")] for time in ("past", "present")]
    _add_caches(builder, attention, past, present, TensorProto.INT8 if int8 else TensorProto.FLOAT)
    # Tables narrower than head_dim / 2 make the rotation partial, as in GLM.
    turning: dict[str, int | str] = {"do_rotary": 1, "rotary_interleaved": 0 if rotary.halves else 1} if rotary else {}
    tables = _tables(builder, rotary)
    # A run is a whole prefix, which sees all of itself, or one row, which sees all before it.
    mask: dict[str, int | str] = {} if attention.causal else {"causal": 0}
    # Without it the operator scales by 1 / sqrt(head_dim), however many elements turn.
    scale: dict[str, float] = {} if attention.scale is None else {"scale": attention.scale}
    # Inputs 9 to 11 are positions, bias and sinks. Per channel costs no more time than per tensor, and less accuracy.
    scales = [_weight(builder, place, each) for each in (attention.cache.key_scale, attention.cache.value_scale)] if int8 else []
    quantized: dict[str, int | str] = {"kv_cache_bit_width": 8, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
    builder.add_node(
        "GroupQueryAttention",
        [*heads, *past, "seqlens_k", "total_sequence_length", *tables, *(["", "", "", *scales] if int8 else [])],
        [output, *present],
        fused=True,
        num_heads=attention.heads,
        kv_num_heads=attention.kv_heads,
        **turning,
        **mask,
        **scale,
        **(quantized if int8 else {}),
    )
    return output


def add_turn(builder: GraphBuilder, rows: str, rotary: Rotary, heads: int, output: str) -> str:
    """`output`: `heads` of `rows` [batch, sequence, heads x head_dim], each turned by its token's position."""
    cos, sin = _tables(builder, rotary)
    builder.add_node(
        "RotaryEmbedding",
        [rows, _positions(builder, rows), cos, sin],
        [output],
        fused=True,
        interleaved=0 if rotary.halves else 1,
        num_heads=heads,
        rotary_embedding_dim=2 * columns_of(rotary.dim),
    )
    return output


def _positions(builder: GraphBuilder, rows: str) -> str:
    """int64 [batch, sequence], once in a graph: a slot's last row is at `seqlens_k`, the others before it."""
    positions = "positions.ids"
    if builder.first(positions):
        one = builder.constant("positions.step", [1])
        builder.add_node("Cast", ["seqlens_k"], ["positions.last"], to=TensorProto.INT64)
        builder.add_node("Unsqueeze", ["positions.last", one], ["positions.last.each"])
        builder.add_node("Shape", [rows], ["positions.count"], start=1, end=2)
        builder.add_node("Sub", [one, "positions.count"], ["positions.before"])
        builder.add_node("Squeeze", ["positions.before"], ["positions.first"])
        builder.add_node("Squeeze", [one], ["positions.one"])
        builder.add_node("Range", ["positions.first", "positions.one", "positions.one"], ["positions.offsets"])
        builder.add_node("Add", ["positions.last.each", "positions.offsets"], [positions])
    return positions


def _add_caches(builder: GraphBuilder, attention: Attention, past: Sequence[str], present: Sequence[str], dtype: int) -> None:
    shape: list[int | str] = ["batch", attention.kv_heads, "capacity", attention.head_dim]
    for name in past:
        builder.add_input(name, dtype, shape)
    for name in present:
        builder.add_output(name, dtype, shape)


def _tables(builder: GraphBuilder, rotary: Rotary | None) -> list[str]:
    return [builder.weight(POSITIONS, name) if rotary else "" for name in ("cos", "sin")]


def _weight(builder: GraphBuilder, place: str, parameter: TensorParameter) -> str:
    return builder.weight(f"{place}.{parameter.part}" if parameter.part else place, parameter.name)
