"""The original GLM (GLM-2B, GLM-10B): fills blanks. Two layer norms a layer, GELU, learned positions, a prefix that sees all of itself.

Sources: THUDM/GLM, mpu/transformer.py, and the modeling_glm.py that the hub keeps beside the checkpoints. GELU is the hub's, exact; the
training code's is tanh's approximation (0.001 rms in the logits). What follows the prefix is decoded row by row, and sees all before it:
so one graph without a causal mask serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnx import TensorProto

from protos.errors import InvalidInput
from protos.manifest import ModelConfig
from quantize.architectures.architecture import Architecture
from quantize.config_reader import ConfigReader, wrong
from quantize.layers import decoder
from quantize.layers.decoder import Residual, add_attention, add_linear, add_output_head
from quantize.layers.forward import LayerRun, Steps, gelu
from quantize.layers.graph_builder import GraphBuilder
from quantize.parts import EMBEDDING, HEAD, layer_part
from quantize.sources import Shapes, Sources, shapes_of, sources_of

# A default of the code, in no config.json.
_EPSILON = 1e-5
_START, _ENDS = "<|startofpiece|>", ("<|endofpiece|>", "<|endoftext|>")
# Blanks: a few words, a sentence, what follows. The last is put behind a prompt without one.
_MASKS = ("[MASK]", "[sMASK]", "[gMASK]")

_OUTER = {
    "embedding.weight": "word_embeddings.weight",
    "embedding.positions": "transformer.position_embeddings.weight",
    "embedding.block_positions": "transformer.block_position_embeddings.weight",
    "head.norm.gain": "transformer.final_layernorm.weight",
    "head.norm.bias": "transformer.final_layernorm.bias",
    "head.weight": "lm_head.weight",
}
_INNER = {
    "input_norm.gain": ("input_layernorm.weight",),
    "input_norm.bias": ("input_layernorm.bias",),
    "qkv.weight": ("attention.query_key_value.weight",),
    "qkv.bias": ("attention.query_key_value.bias",),
    "o.weight": ("attention.dense.weight",),
    "o.bias": ("attention.dense.bias",),
    "post_norm.gain": ("post_attention_layernorm.weight",),
    "post_norm.bias": ("post_attention_layernorm.bias",),
    "up.weight": ("mlp.dense_h_to_4h.weight",),
    "up.bias": ("mlp.dense_h_to_4h.bias",),
    "down.weight": ("mlp.dense_4h_to_h.weight",),
    "down.bias": ("mlp.dense_4h_to_h.bias",),
}


def _parse_config(reader: ConfigReader) -> ModelConfig:
    hidden = reader.integer("hidden_size", 1, 1 << 16)
    heads = reader.integer("num_attention_heads", 1, 1024)
    if hidden % heads or hidden // heads % 8:
        wrong(f"hidden_size ({hidden}) is no multiple of num_attention_heads ({heads}) times 8")
    if not reader.boolean("block_position_encoding", True) or reader.boolean("relative_encoding"):
        wrong("only learned positions in two rows are supported (block_position_encoding)")
    if reader.number("attention_scale", 0.0, 1e6, 1.0) > 1:
        wrong("an attention_scale above 1 is not supported")
    positions = reader.integer("max_sequence_length", 1, 1 << 20, 1024) + 1
    return ModelConfig(
        architecture=BLANK_GLM.names[0],
        hidden_size=hidden,
        layers=reader.integer("num_layers", 1, 1024),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=4 * hidden,
        vocab_size=reader.vocab_size(),
        norm_epsilon=_EPSILON,
        rope_theta=0.0,
        rotary_dim=0,
        qkv_bias=True,
        tied_head=True,
        max_positions=positions,  # of prefix and fill together: so neither of a row's two positions can leave its table
        eos_token_ids=(),
        learned_positions=positions,
        prefix_whole=True,
    )


def _with_tokens(config: ModelConfig, special: Mapping[str, int]) -> ModelConfig:
    missing = [token for token in (_START, *_ENDS, *_MASKS[:1], _MASKS[-1]) if special.get(token, config.vocab_size) >= config.vocab_size]
    if missing:
        raise InvalidInput(
            f"the tokenizer has no {missing[0]}, which this model needs", advice="added_tokens.json belongs to the checkpoint"
        )
    masks = tuple(special[token] for token in _MASKS if special.get(token, config.vocab_size) < config.vocab_size)
    return replace(config, eos_token_ids=tuple(special[token] for token in _ENDS), mask_token_ids=masks, start_token_id=special[_START])


def _outer_parts(config: ModelConfig) -> dict[str, Shapes]:
    hidden, table = (config.hidden_size,), (config.learned_positions, config.hidden_size)
    vocabulary, norm = (config.vocab_size, config.hidden_size), {"norm.gain": hidden, "norm.bias": hidden}
    return {
        EMBEDDING: {"weight": vocabulary, "positions": table, "block_positions": table},
        HEAD: norm if config.tied_head else {**norm, "weight": vocabulary},
    }


def _layer_parts(config: ModelConfig, layer: int) -> dict[str, Shapes]:
    """qkv is the rows of q, then k, then v."""
    hidden, inner = config.hidden_size, config.intermediate_size
    norms: dict[str, dict[str, tuple[int, ...]]] = {
        name: {f"{name}.gain": (hidden,), f"{name}.bias": (hidden,)} for name in ("input_norm", "post_norm")
    }
    return {
        "": {
            **norms["input_norm"],
            "qkv.weight": (3 * hidden, hidden),
            "qkv.bias": (3 * hidden,),
            "o.weight": (hidden, hidden),
            "o.bias": (hidden,),
            **norms["post_norm"],
            "up.weight": (inner, hidden),
            "up.bias": (inner,),
            "down.weight": (hidden, inner),
            "down.bias": (hidden,),
        }
    }


def _hugging_face(config: ModelConfig) -> Sources:
    return sources_of(config, shapes_of(config, _outer_parts(config), _layer_parts), _OUTER, "transformer.layers.{}.", _INNER)


def _ignored(config: ModelConfig, name: str) -> bool:
    """Heads of other tasks, which the hub's code adds beside the decoder."""
    return not name.startswith(("transformer.", "word_embeddings."))


def _add_embedding(builder: GraphBuilder, input_ids: str) -> str:
    """Token, position and block position, added once; `position_ids` int64 [batch, sequence, 2] is a further input."""
    builder.add_input("position_ids", TensorProto.INT64, ["batch", "sequence", 2])
    rows = decoder.add_embedding(builder, input_ids)
    builder.add_node("Split", ["position_ids"], ["position", "block_position"], axis=2, num_outputs=2)
    for name in ("position", "block_position"):
        builder.add_node("Squeeze", [name, builder.constant("position.axis", [2])], [f"{name}.ids"])
        builder.add_node("Gather", [builder.weight(EMBEDDING, f"{name}s"), f"{name}.ids"], [f"{name}.rows"], axis=0)
        builder.add_node("Add", [rows, f"{name}.rows"], [f"{name}.sum"])
        rows = f"{name}.sum"
    return rows


def _add_layer(builder: GraphBuilder, layer: int, residual: Residual) -> Residual:
    """Attention and GELU, each on the normed residual stream."""
    part = layer_part(layer)
    value, normed = _add_norm(builder, part, "input_norm", residual)
    attended = add_attention(builder, layer, part, add_linear(builder, part, "qkv", normed))
    value, normed = _add_norm(builder, part, "post_norm", Residual(value, add_linear(builder, part, "o", attended)))
    activated = f"{part}.activated"
    builder.add_node("Gelu", [add_linear(builder, part, "up", normed)], [activated], approximate="none")
    return Residual(value, add_linear(builder, part, "down", activated))


def _add_norm(builder: GraphBuilder, part: str, norm: str, residual: Residual) -> tuple[str, str]:
    """(the residual's value, its layer norm)."""
    value, normed = f"{part}.{norm}.sum", f"{part}.{norm}.out"
    builder.add_node(
        "SkipLayerNormalization",
        [residual.stream, residual.branch, builder.weight(part, f"{norm}.gain"), builder.weight(part, f"{norm}.bias")],
        [normed, "", "", value],
        fused=True,
        epsilon=builder.config.norm_epsilon,
    )
    return value, normed


def _add_head(builder: GraphBuilder, hidden: str, logits: str) -> None:
    normed = "head.norm.out"
    weights = [builder.weight(HEAD, f"norm.{name}") for name in ("gain", "bias")]
    builder.add_node("LayerNormalization", [hidden, *weights], [normed], axis=-1, epsilon=builder.config.norm_epsilon)
    add_output_head(builder, normed, logits)


def _run_layer(run: LayerRun) -> Steps:
    attended = run.attend((yield "qkv.weight", run.layer_norm("input_norm")))
    run.hidden += yield "o.weight", attended
    activated = gelu((yield "up.weight", run.layer_norm("post_norm")))
    run.hidden += yield "down.weight", activated


BLANK_GLM = Architecture(
    names=("GLMForConditionalGeneration", "GLMModel"),
    model_type="glm-original",  # theirs is "glm" too: `architectures` tells them apart
    parse_config=_parse_config,
    outer_parts=_outer_parts,
    layer_parts=_layer_parts,
    hugging_face=_hugging_face,
    ignored=_ignored,
    add_embedding=_add_embedding,
    add_layer=_add_layer,
    add_head=_add_head,
    run_layer=_run_layer,
    final_norm=lambda run: run.layer_norm("norm"),
    with_tokens=_with_tokens,
    file_prefix="glm.",
)
