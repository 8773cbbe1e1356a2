"""The GLM decoder in onnxruntime's fused operators: embedding, layer, head."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from quantize.blocks import padded
from quantize.graph_builder import GraphBuilder
from quantize.parts import EMBEDDING, HEAD, KV_SCALES, POSITIONS, layer_part


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
    config = builder.config
    builder.add_node(
        "GatherBlockQuantized",
        [builder.weight(EMBEDDING, "weight"), input_ids, builder.weight(EMBEDDING, "scales")],
        ["embedding.rows"],
        fused=True,
        bits=8,
        block_size=builder.block_size,
        gather_axis=0,
        quantize_axis=1,
    )
    if padded(config.hidden_size, builder.block_size) == config.hidden_size:
        return "embedding.rows"
    starts, ends = builder.constant("embedding.start", [0]), builder.constant("embedding.end", [config.hidden_size])
    builder.add_node("Slice", ["embedding.rows", starts, ends, builder.constant("embedding.axis", [2])], ["embedding.out"])
    return "embedding.out"


def add_layer(builder: GraphBuilder, layer: int, residual: Residual) -> Residual:
    """One decoder layer: attention and SwiGLU, each on the normed residual stream."""
    config, part = builder.config, layer_part(layer)
    hidden, intermediate = config.hidden_size, config.intermediate_size

    residual_sum, normed = _add_norm(builder, part, "input_norm", residual)
    qkv = _add_linear(builder, part, "qkv", normed, hidden, config.query_size + 2 * config.kv_size)
    attended = _add_attention(builder, layer, qkv)
    attention_out = _add_linear(builder, part, "o", attended, config.query_size, hidden)

    residual_sum, normed = _add_norm(builder, part, "post_norm", Residual(residual_sum, attention_out))
    gate_up = _add_linear(builder, part, "gate_up", normed, hidden, 2 * intermediate)
    gate, up, activated, product = (f"{part}.{name}" for name in ("gate", "up", "activated", "product"))
    builder.add_node("Split", [gate_up], [gate, up], axis=-1, num_outputs=2)
    builder.add_node("QuickGelu", [gate], [activated], fused=True, alpha=1.0)  # x * sigmoid(x): SiLU
    builder.add_node("Mul", [activated, up], [product])
    return Residual(residual_sum, _add_linear(builder, part, "down", product, intermediate, hidden))


def add_head(builder: GraphBuilder, hidden: str, logits: str) -> None:
    """Final norm and output head of float32 [rows, H]."""
    config = builder.config
    builder.add_node(
        "SimplifiedLayerNormalization",
        [hidden, builder.weight(HEAD, "norm")],
        ["head.normed"],
        axis=-1,
        epsilon=config.norm_epsilon,
        stash_type=TensorProto.FLOAT,
    )
    _add_matmul(builder, HEAD, "", ["head.normed"], logits, config.hidden_size, config.vocab_size)


def _add_norm(builder: GraphBuilder, part: str, norm: str, residual: Residual) -> tuple[str, str]:
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


def _add_linear(builder: GraphBuilder, part: str, name: str, value: str, columns: int, rows: int) -> str:
    output = f"{part}.{name}.out"
    _add_matmul(builder, part, f"{name}.", [value], output, columns, rows)
    return output


def _add_matmul(builder: GraphBuilder, part: str, prefix: str, inputs: list[str], output: str, columns: int, rows: int) -> None:
    inputs = [*inputs, builder.weight(part, f"{prefix}weight"), builder.weight(part, f"{prefix}scales")]
    if builder.has_weight(part, f"{prefix}bias"):
        inputs += ["", "", builder.weight(part, f"{prefix}bias")]
    builder.add_node(
        "MatMulNBits",
        inputs,
        [output],
        fused=True,
        K=columns,
        N=rows,
        bits=8,
        block_size=builder.block_size,
        accuracy_level=builder.accuracy_level,
    )


def _add_attention(builder: GraphBuilder, layer: int, qkv: str) -> str:
    """Grouped-query attention with rotary positions over the layer's cache, which is updated in place."""
    config = builder.config
    int8 = builder.kv_dtype == "int8"
    dtype = TensorProto.INT8 if int8 else TensorProto.FLOAT
    cache: list[int | str] = ["batch", config.kv_heads, "capacity", config.head_dim]
    past, present = [[f"{time}_{what}.{layer}" for what in ("key", "value")] for time in ("past", "present")]
    for name in past:
        builder.add_input(name, dtype, cache)
    for name in present:
        builder.add_output(name, dtype, cache)
    output = f"{layer_part(layer)}.attention.out"
    # Tables narrower than head_dim / 2 make the rotation partial, as in GLM; the softmax scale stays 1 / sqrt(head_dim).
    tables = [builder.weight(POSITIONS, "cos"), builder.weight(POSITIONS, "sin")]
    # Inputs 9 to 11 are positions, bias and sinks. Per channel costs no more time than per tensor, and less accuracy.
    part = layer_part(layer)
    scales = ["", "", "", *(builder.weight(part, name) for name in KV_SCALES)] if int8 else []
    quantized: dict[str, int | str] = {"kv_cache_bit_width": 8, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
    builder.add_node(
        "GroupQueryAttention",
        [qkv, "", "", *past, "seqlens_k", "total_sequence_length", *tables, *scales],
        [output, *present],
        fused=True,
        num_heads=config.heads,
        kv_num_heads=config.kv_heads,
        do_rotary=1,
        rotary_interleaved=1,
        **(quantized if int8 else {}),
    )
    return output
