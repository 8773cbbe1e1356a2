"""Blocks of decoders in onnxruntime's fused operators, of which architectures compose their layers.

Weights decide how they are computed with: int8 blocks by MatMulNBits and GatherBlockQuantized, float32 matrices by plain operators.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from quantize.blocks import padded
from quantize.layers.graph_builder import GraphBuilder
from quantize.parts import EMBEDDING, HEAD, KV_SCALES, POSITIONS


@dataclass(frozen=True)
class Residual:
    """The residual stream before the sum that the next norm will make: value = stream + branch.

    SkipSimplifiedLayerNormalization(a, b) and SimplifiedLayerNormalization(a + b) round differently, and a cut must not show. So the
    first norm of a stage is the fused one too, with zeros for the branch: x + 0 is x.
    """

    stream: str
    branch: str

    @staticmethod
    def begin(builder: GraphBuilder, hidden: str) -> Residual:
        builder.add_node("Shape", [hidden], ["residual.shape"])
        builder.add_node("ConstantOfShape", ["residual.shape"], ["residual.zeros"])
        return Residual(hidden, "residual.zeros")


def add_embedding(builder: GraphBuilder, input_ids: str) -> str:
    """float32 [batch, sequence, H] of int64 [batch, sequence]; rows are dequantized as they are gathered."""
    hidden_size, table = builder.config.hidden_size, builder.weight(EMBEDDING, "weight")
    if builder.is_float(EMBEDDING, "weight"):
        builder.add_node("Gather", [table, input_ids], ["embedding.out"], axis=0)
        return "embedding.out"
    builder.add_node(
        "GatherBlockQuantized",
        [table, input_ids, builder.weight(EMBEDDING, "scales")],
        ["embedding.rows"],
        fused=True,
        bits=8,
        block_size=builder.block_size,
        gather_axis=0,
        quantize_axis=1,
    )
    if padded(hidden_size, builder.block_size) == hidden_size:
        return "embedding.rows"
    starts, ends = builder.constant("embedding.start", [0]), builder.constant("embedding.end", [hidden_size])
    builder.add_node("Slice", ["embedding.rows", starts, ends, builder.constant("embedding.axis", [2])], ["embedding.out"])
    return "embedding.out"


def add_output_head(builder: GraphBuilder, normed: str, logits: str) -> None:
    """Logits of float32 [rows, H]; the head may be the embedding's matrix."""
    config = builder.config
    _add_matmul(builder, HEAD, "", normed, logits, (config.vocab_size, config.hidden_size))


def add_residual_norm(builder: GraphBuilder, part: str, norm: str, residual: Residual) -> tuple[str, str]:
    """(the residual's value, its RMS norm)."""
    value, normed = f"{part}.{norm}.sum", f"{part}.{norm}.out"
    builder.add_node(
        "SkipSimplifiedLayerNormalization",
        [residual.stream, residual.branch, builder.weight(part, norm)],
        [normed, "", "", value],
        fused=True,
        epsilon=builder.config.norm_epsilon,
    )
    return value, normed


def add_rms_norm(builder: GraphBuilder, part: str, norm: str, value: str) -> str:
    """Over the last axis."""
    normed = f"{part}.{norm}.out"
    builder.add_node(
        "SimplifiedLayerNormalization",
        [value, builder.weight(part, norm)],
        [normed],
        axis=-1,
        epsilon=builder.config.norm_epsilon,
        stash_type=TensorProto.FLOAT,
    )
    return normed


def add_linear(builder: GraphBuilder, part: str, name: str, value: str) -> str:
    """The product with matrix `name`.weight, plus `name`.bias where the part has one."""
    output = f"{part}.{name}.out"
    rows, columns = builder.shape(f"{part}.{name}.weight")
    _add_matmul(builder, part, f"{name}.", value, output, (rows, columns))
    return output


def add_normed_heads(builder: GraphBuilder, part: str, qkv: str) -> tuple[str, str, str]:
    """(queries, keys, values) of the fused product; each query head has "q_norm", each key head "k_norm"."""
    config = builder.config
    names = [f"{part}.{name}" for name in ("queries", "keys", "values")]
    sizes = builder.constant("qkv.sizes", [config.query_size, config.kv_size, config.kv_size])
    builder.add_node("Split", [qkv, sizes], names, axis=-1)
    for place, (norm, heads) in enumerate((("q_norm", config.heads), ("k_norm", config.kv_heads))):
        by_heads, normed = f"{names[place]}.heads", f"{names[place]}.normed"
        builder.add_node("Reshape", [names[place], builder.constant(f"{norm}.heads", [0, 0, heads, config.head_dim])], [by_heads])
        builder.add_node("Reshape", [add_rms_norm(builder, part, norm, by_heads), builder.constant("heads.flat", [0, 0, -1])], [normed])
        names[place] = normed
    return names[0], names[1], names[2]


def add_swiglu(builder: GraphBuilder, part: str, gate_up: str, name: str = "") -> str:
    """SiLU of the first half times the second."""
    gate, up, activated, product = (f"{part}.{name}{value}" for value in ("gate", "up", "activated", "product"))
    builder.add_node("Split", [gate_up], [gate, up], axis=-1, num_outputs=2)
    builder.add_node("QuickGelu", [gate], [activated], fused=True, alpha=1.0)  # x * sigmoid(x): SiLU
    builder.add_node("Mul", [activated, up], [product])
    return product


def add_attention(builder: GraphBuilder, layer: int, part: str, qkv: str | tuple[str, str, str]) -> str:
    """Grouped-query attention with rotary positions over the layer's cache, which is updated in place; `part` has the cache's scales.

    `qkv` is fused, or (queries, keys, values), each [batch, sequence, heads x head_dim].
    """
    config = builder.config
    int8 = builder.kv_dtype == "int8"
    dtype = TensorProto.INT8 if int8 else TensorProto.FLOAT
    cache: list[int | str] = ["batch", config.kv_heads, "capacity", config.head_dim]
    past, present = [[f"{time}_{what}.{layer}" for what in ("key", "value")] for time in ("past", "present")]
    for name in past:
        builder.add_input(name, dtype, cache)
    for name in present:
        builder.add_output(name, dtype, cache)
    output = f"{part}.attention.out"
    # Tables narrower than head_dim / 2 make the rotation partial, as in GLM; the softmax scale stays 1 / sqrt(head_dim).
    rotary: dict[str, int | str] = {"do_rotary": 1, "rotary_interleaved": 0 if config.rotary_halves else 1} if config.rotary_dim else {}
    tables = [builder.weight(POSITIONS, name) if rotary else "" for name in ("cos", "sin")]
    # A run is a whole prefix, which sees all of itself, or one row, which sees all before it.
    mask: dict[str, int | str] = {"causal": 0} if config.prefix_whole else {}
    # Inputs 9 to 11 are positions, bias and sinks. Per channel costs no more time than per tensor, and less accuracy.
    scales = ["", "", "", *(builder.weight(part, name) for name in KV_SCALES)] if int8 else []
    quantized: dict[str, int | str] = {"kv_cache_bit_width": 8, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
    builder.add_node(
        "GroupQueryAttention",
        [*((qkv, "", "") if isinstance(qkv, str) else qkv), *past, "seqlens_k", "total_sequence_length", *tables, *scales],
        [output, *present],
        fused=True,
        num_heads=config.heads,
        kv_num_heads=config.kv_heads,
        **rotary,
        **mask,
        **(quantized if int8 else {}),
    )
    return output


def _add_matmul(builder: GraphBuilder, part: str, prefix: str, value: str, output: str, shape: tuple[int, ...]) -> None:
    rows, columns = shape
    bias = builder.weight(part, f"{prefix}bias") if builder.has_weight(part, f"{prefix}bias") else ""
    weight = builder.weight(part, f"{prefix}weight")
    if builder.is_float(part, f"{prefix}weight"):
        product = f"{output}.product" if bias else output
        builder.add_node("FusedMatMul", [value, weight], [product], fused=True, transB=1)
        if bias:
            builder.add_node("Add", [product, bias], [output])
        return
    zeros = builder.weight(part, f"{prefix}zero_points") if builder.has_weight(part, f"{prefix}zero_points") else ""
    builder.add_node(
        "MatMulNBits",
        [value, weight, builder.weight(part, f"{prefix}scales"), zeros, *(["", bias] if bias else [])],
        [output],
        fused=True,
        K=columns,
        N=rows,
        bits=builder.bits(part, f"{prefix}weight"),
        block_size=builder.block_size,
        accuracy_level=builder.accuracy_level,
    )
