"""Attention over a layer's cache in onnxruntime's operators."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from protos.dtypes import KvDtype
from protos.manifest import ModelConfig
from quantize.layers.graph_builder import GraphBuilder
from quantize.layers.operators import Attention, Rotary, TensorParameter
from quantize.layers.positions import columns_of
from quantize.parts import POSITIONS

# The sum that a score is has pieces of 128 products in float32, longer ones where there are 64 keys or fewer (MLAS, sgemm.cpp:
# MLAS_SGEMM_STRIDEK and how MlasSgemmOperation doubles it).
_WIDEST_PIECE, _KEYS = 128, 66
# Against which nothing else in a softmax counts.
_NEVER = -1e30
# Nodes that `_lengthened` and `_add_missing` add: to each attention, to a graph.
ATTENTION_PADDING, GRAPH_PADDING = 3, 13


def is_lengthened(head_dim: int, kv_dtype: KvDtype, *, causal: bool) -> bool:
    """Whether runs get rows after their last until there are so many keys that a score does not depend on how many there are. So it does
    not where the kernel takes keys by tiles, which it must not either; nor with an int8 cache, which has kernels of its own."""
    return causal and kv_dtype == "float32" and head_dim > _WIDEST_PIECE


def add_attention(builder: GraphBuilder, place: str, attention: Attention, heads: Sequence[str], rotary: Rotary | None, output: str) -> str:
    """`output`, float32 [batch, sequence, heads x head_dim]: grouped-query attention over the cache of `place`, which is updated in place.

    `heads` are the operator's first three inputs; it turns queries and keys as `rotary` says.
    """
    int8, lengthened = builder.kv_dtype == "int8", is_lengthened(attention.head_dim, builder.kv_dtype, causal=attention.causal)
    layer = place.removeprefix("layers.")
    # Tables narrower than head_dim / 2 make the rotation partial, as in GLM.
    turning: dict[str, int | str] = {"do_rotary": 1, "rotary_interleaved": 0 if rotary.halves else 1} if rotary else {}
    tables = _tables(builder, rotary)
    # A run is a whole prefix, which sees all of itself, or one row, which sees all before it.
    mask: dict[str, int | str] = {} if attention.causal else {"causal": 0}
    # Without it the operator scales by 1 / sqrt(head_dim), however many elements turn.
    scale: dict[str, float] = {} if attention.scale is None else {"scale": attention.scale}
    lengths, attended = ["seqlens_k", "total_sequence_length"], output
    if lengthened:
        heads, attended = _lengthened(builder, heads, f"past_key.{layer}"), f"{output}.lengthened"
        lengths = ["padding.seqlens_k", "padding.total"]
    # With sinks the kernel takes all keys at once.
    sinks = [builder.float_constant("attention.sinks", [_NEVER] * attention.heads)] if lengthened else []
    # Inputs 9 to 11 are positions, bias and sinks. Per channel costs no more time than per tensor, and less accuracy.
    scales = [_weight(builder, place, each) for each in (attention.cache.key_scale, attention.cache.value_scale)] if int8 else []
    quantized: dict[str, int | str] = {"kv_cache_bit_width": 8, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}

    def attend(heads: Sequence[str], lengths: Sequence[str], cache: str, attended: str) -> None:
        past, present = [[f"{time}_{what}.{cache}" for what in ("key", "value")] for time in ("past", "present")]
        _add_caches(builder, attention, past, present, TensorProto.INT8 if int8 else TensorProto.FLOAT)
        builder.add_node(
            "GroupQueryAttention",
            [*heads, *past, *lengths, *tables, *(["", "", *(sinks or [""]), *scales] if int8 or sinks else [])],
            [attended, *present],
            fused=True,
            num_heads=attention.heads,
            kv_num_heads=attention.kv_heads,
            **turning,
            **mask,
            **scale,
            **(quantized if int8 else {}),
        )

    if not builder.slots:
        attend(heads, lengths, layer, attended)
    else:
        by_slot, lengths_by_slot = _by_slot(builder, heads), _lengths_by_slot(builder)
        for slot in range(builder.slots):
            attend(by_slot[slot], lengths_by_slot[slot], f"{layer}.{slot}", f"{output}.{slot}")
        builder.add_node("Concat", [f"{output}.{slot}" for slot in range(builder.slots)], [f"{output}.all"], axis=1)
        first, axis = builder.constant("slots.first", [0]), builder.constant("slots.axis", [1])
        builder.add_node("Slice", [f"{output}.all", first, "row_total", axis], [output])
    if lengthened:
        first, axis = builder.constant("padding.none", [0]), builder.constant("padding.axis", [1])
        builder.add_node("Slice", [attended, first, "padding.rows", axis], [output])
    return output


def has_slots(config: ModelConfig, kv_dtype: KvDtype) -> bool:
    """Whether a graph may have an attention for each slot: not where the operator's inputs are made for one sequence, as those of a latent
    are and of heads that get rows after their last."""
    return config.latent is None and not config.prefix_whole and not is_lengthened(config.head_dim, kv_dtype, causal=True)


def _by_slot(builder: GraphBuilder, heads: Sequence[str]) -> list[list[str]]:
    """The operator's first inputs for each slot: of the rows of all, which follow each other, its own. The operator takes no run without a
    row, so a row of zeros is added for each slot that has none."""
    slots = range(builder.slots)
    for name in filter(None, dict.fromkeys(heads)):
        builder.add_node("Pad", [name, "row_pads"], [f"{name}.padded"])
        builder.add_node("Split", [f"{name}.padded", "row_counts"], [f"{name}.{slot}" for slot in slots], axis=1)
    return [[f"{name}.{slot}" if name else "" for name in heads] for slot in slots]


def _lengths_by_slot(builder: GraphBuilder) -> list[list[str]]:
    """ "seqlens_k" and "total_sequence_length" int32 [1] of each slot."""
    slots, names = range(builder.slots), ("seqlens_k", "total_sequence_length")
    if builder.first("slots"):
        for name in names:
            builder.add_node("Split", [name], [f"{name}.{slot}" for slot in slots], axis=0, num_outputs=builder.slots)
    return [[f"{name}.{slot}" for name in names] for slot in slots]


def _lengthened(builder: GraphBuilder, heads: Sequence[str], past_key: str) -> list[str]:
    """The inputs `heads` with zeros after a run's last row, as many as make `_KEYS` keys or fill the cache. What they write into the cache
    lies behind what it holds. A decoded row stays alone: the keys it meets are as many as its position says."""
    if builder.first("padding"):
        _add_missing(builder, heads[0], past_key)
    for name in filter(None, dict.fromkeys(heads)):
        builder.add_node("Pad", [name, "padding.pads"], [f"{name}.lengthened"])
    return [f"{name}.lengthened" if name else "" for name in heads]


def _add_missing(builder: GraphBuilder, rows: str, past_key: str) -> None:
    """For all attention of a graph: "padding.rows" int64 [1], a run's without it; "padding.pads" int64 [6]; the lengths with it."""
    none, one, keys = (builder.constant(f"padding.{name}", [value]) for name, value in (("none", 0), ("axis", 1), ("keys", _KEYS)))
    builder.add_node("Shape", [rows], ["padding.rows"], start=1, end=2)
    builder.add_node("Sub", ["padding.rows", one], ["padding.further"])
    builder.add_node("Min", ["padding.further", one], ["padding.run"])  # 0 of a decoded row
    builder.add_node("Shape", [past_key], ["padding.capacity"], start=2, end=3)
    builder.add_node("Min", ["padding.capacity", keys], ["padding.wanted"])
    builder.add_node("Cast", ["total_sequence_length"], ["padding.present"], to=TensorProto.INT64)
    builder.add_node("Sub", ["padding.wanted", "padding.present"], ["padding.short"])
    builder.add_node("Max", ["padding.short", none], ["padding.lacking"])
    builder.add_node("Mul", ["padding.lacking", "padding.run"], ["padding.missing"])
    builder.add_node("Cast", ["padding.missing"], ["padding.more"], to=TensorProto.INT32)
    builder.add_node("Add", ["seqlens_k", "padding.more"], ["padding.seqlens_k"])
    builder.add_node("Add", ["total_sequence_length", "padding.more"], ["padding.total"])
    builder.add_node("Concat", [*[none] * 4, "padding.missing", none], ["padding.pads"], axis=0)


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
