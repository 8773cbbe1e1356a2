"""GlmForCausalLM: GLM-Edge, GLM-4-9B. Two RMS norms a layer, SwiGLU, rotary positions of interleaved pairs, possibly partial."""

from __future__ import annotations

from protos.manifest import ModelConfig
from quantize.architectures.architecture import Architecture, Folding
from quantize.config_reader import ConfigReader
from quantize.layers.decoder import (
    Residual,
    add_attention,
    add_embedding,
    add_linear,
    add_output_head,
    add_residual_norm,
    add_rms_norm,
    add_swiglu,
)
from quantize.layers.forward import LayerRun, Steps, swiglu
from quantize.layers.graph_builder import GraphBuilder
from quantize.parts import EMBEDDING, HEAD, layer_part
from quantize.sources import Shapes, Sources, shapes_of, sources_of

# What transformers' GlmConfig assumes when a key is left out (configuration_glm.py).
DEFAULT_KV_HEADS, DEFAULT_HEAD_DIM, DEFAULT_EPSILON = 2, 128, 1.5625e-07
DEFAULT_ROTARY_FRACTION, DEFAULT_POSITIONS = 0.5, 131_072

OUTER = {"embedding.weight": "model.embed_tokens.weight", "head.norm": "model.norm.weight", "head.weight": "lm_head.weight"}
LAYER = "model.layers.{}."
INNER = {
    "input_norm": ("input_layernorm.weight",),
    "qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "qkv.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "o.weight": ("self_attn.o_proj.weight",),
    "post_norm": ("post_attention_layernorm.weight",),
    "gate_up.weight": ("mlp.gate_up_proj.weight",),
    "down.weight": ("mlp.down_proj.weight",),
}


def parse_config(reader: ConfigReader) -> ModelConfig:
    reader.check_activation("silu", "swish")
    heads, kv_heads = reader.heads(DEFAULT_KV_HEADS)
    head_dim = reader.head_dim(DEFAULT_HEAD_DIM)
    return ModelConfig(
        architecture=GLM.names[0],
        hidden_size=reader.integer("hidden_size", 1, 1 << 16),
        layers=reader.integer("num_hidden_layers", 1, 1024),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=reader.integer("intermediate_size", 1, 1 << 20),
        vocab_size=reader.vocab_size(),
        norm_epsilon=reader.number("rms_norm_eps", 1e-20, 0.1, DEFAULT_EPSILON),
        rope_theta=reader.rope_theta(),
        rotary_dim=reader.rotary_dim(head_dim, DEFAULT_ROTARY_FRACTION),
        qkv_bias=reader.boolean("attention_bias"),
        tied_head=reader.boolean("tie_word_embeddings"),
        max_positions=reader.integer("max_position_embeddings", 1, 1 << 24, DEFAULT_POSITIONS),
        eos_token_ids=reader.eos_token_ids(),
    )


def ignored(config: ModelConfig, name: str) -> bool:
    return name.endswith("rotary_emb.inv_freq")


def outer_parts(config: ModelConfig) -> dict[str, Shapes]:
    vocabulary, norm = (config.vocab_size, config.hidden_size), {"norm": (config.hidden_size,)}
    return {EMBEDDING: {"weight": vocabulary}, HEAD: norm if config.tied_head else {**norm, "weight": vocabulary}}


def layer_parts(config: ModelConfig, layer: int) -> dict[str, Shapes]:
    """qkv is the rows of q, then k, then v; gate_up is gate, then up."""
    hidden, fused = config.hidden_size, config.query_size + 2 * config.kv_size
    return {
        "": {
            "input_norm": (hidden,),
            "qkv.weight": (fused, hidden),
            **({"qkv.bias": (fused,)} if config.qkv_bias else {}),
            "o.weight": (hidden, config.query_size),
            "post_norm": (hidden,),
            "gate_up.weight": (2 * config.intermediate_size, hidden),
            "down.weight": (hidden, config.intermediate_size),
        }
    }


def hugging_face(config: ModelConfig) -> Sources:
    return sources_of(config, shapes_of(config, outer_parts(config), layer_parts), OUTER, LAYER, INNER)


def add_layer(builder: GraphBuilder, layer: int, residual: Residual) -> Residual:
    """Attention and SwiGLU, each on the normed residual stream."""
    part = layer_part(layer)
    value, normed = add_residual_norm(builder, part, "input_norm", residual)
    attended = add_attention(builder, layer, part, add_linear(builder, part, "qkv", normed))
    value, normed = add_residual_norm(builder, part, "post_norm", Residual(value, add_linear(builder, part, "o", attended)))
    product = add_swiglu(builder, part, add_linear(builder, part, "gate_up", normed))
    return Residual(value, add_linear(builder, part, "down", product))


def add_head(builder: GraphBuilder, hidden: str, logits: str) -> None:
    """Final norm and output head of float32 [rows, H]."""
    add_output_head(builder, add_rms_norm(builder, HEAD, "norm", hidden), logits)


def folding(config: ModelConfig) -> Folding:
    return Folding(readers={"qkv.weight": "input_norm", "gate_up.weight": "post_norm"}, writers=frozenset(("o.weight", "down.weight")))


def run_layer(run: LayerRun) -> Steps:
    attended = run.attend((yield "qkv.weight", run.rms_norm("input_norm")))
    run.hidden += yield "o.weight", attended
    product = swiglu((yield "gate_up.weight", run.rms_norm("post_norm")))
    run.hidden += yield "down.weight", product


GLM = Architecture(
    names=("GlmForCausalLM",),
    model_type="glm",
    parse_config=parse_config,
    outer_parts=outer_parts,
    layer_parts=layer_parts,
    hugging_face=hugging_face,
    ignored=ignored,
    add_embedding=add_embedding,
    add_layer=add_layer,
    add_head=add_head,
    run_layer=run_layer,
    folding=folding,
)
