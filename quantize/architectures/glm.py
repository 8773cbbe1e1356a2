"""GlmForCausalLM: GLM-Edge, GLM-4-9B. Two RMS norms a layer, SwiGLU, rotary positions of interleaved pairs, possibly partial."""

from __future__ import annotations

from protos.manifest import ModelConfig
from quantize.architectures.architecture import Architecture
from quantize.architectures.decoder import ATTENDED, MIXED, attention, output_head, rms_norm, swiglu
from quantize.config_reader import ConfigReader
from quantize.layers.operators import INPUT, Add, Block, Embed, TensorParameter
from quantize.rope_settings import max_positions, rope_scaling
from quantize.sources import FileNames

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
    rotary_dim = reader.rotary_dim(head_dim, DEFAULT_ROTARY_FRACTION)
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
        rotary_dim=rotary_dim,
        qkv_bias=reader.boolean("attention_bias"),
        tied_head=reader.boolean("tie_word_embeddings"),
        max_positions=max_positions(reader, DEFAULT_POSITIONS),
        eos_token_ids=reader.eos_token_ids(),
        rope_scaling=rope_scaling(reader, rotary_dim, DEFAULT_POSITIONS),
    )


def ignored(config: ModelConfig, name: str) -> bool:
    return name.endswith("rotary_emb.inv_freq")


def file_names(config: ModelConfig) -> FileNames:
    return FileNames(OUTER, LAYER, INNER)


def embedding(config: ModelConfig) -> Block:
    return Block((Embed(INPUT, "rows", TensorParameter("", "weight", (config.vocab_size, config.hidden_size))),), "rows")


def layer(config: ModelConfig, number: int) -> Block:
    """Attention and SwiGLU, each on the normed residual stream."""
    operators = (
        rms_norm(config, "", "input_norm", INPUT),
        *attention(config, "", "input_norm.out"),
        Add(INPUT, "o.out", ATTENDED),
        rms_norm(config, "", "post_norm", ATTENDED),
        *swiglu("", "post_norm.out", config.hidden_size, config.intermediate_size),
        Add(ATTENDED, "down.out", MIXED),
    )
    return Block(operators, MIXED)


def head(config: ModelConfig) -> Block:
    return output_head(config, rms_norm(config, "", "norm", INPUT))


GLM = Architecture(
    names=("GlmForCausalLM",),
    model_type="glm",
    parse_config=parse_config,
    embedding=embedding,
    layer=layer,
    head=head,
    file_names=file_names,
    ignored=ignored,
    vision="model.vision.",  # GLM-Edge-V
)
