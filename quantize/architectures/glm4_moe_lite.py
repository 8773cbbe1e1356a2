"""Glm4MoeLiteForCausalLM: GLM-4.7-Flash. GLM-4.5's layers with attention over a latent: what is cached of a token is one short vector.

A head's key is that vector times a matrix of the head's own, beside the few elements that turn, which all heads share; its value is the
vector times another. Neither is ever made: (queries x matrix) x latent is queries x (matrix x latent), and a mean of values is the matrix
times the mean of latents. So attention has one KV head, whose keys are its values. DeepSeek-V2 (arXiv:2405.04434, 2.1.2) calls it
absorbed.
"""

from __future__ import annotations

from dataclasses import replace

from protos.manifest import Latent, ModelConfig
from quantize.architectures import glm, glm4_moe
from quantize.architectures.decoder import ATTENDED, MIXED, linear, rms_norm, swiglu, value
from quantize.config_reader import ConfigReader, wrong
from quantize.layers.operators import (
    INPUT,
    Add,
    Attention,
    Block,
    Cache,
    Join,
    Linear,
    Norm,
    Operator,
    Rope,
    Rotary,
    Split,
    TensorParameter,
)
from quantize.parts import KEY_SCALES, VALUE_SCALES
from quantize.rope_settings import max_positions, rope_scaling
from quantize.sources import FileNames, InnerNames, Rows

# What transformers' Glm4MoeLiteConfig assumes when a key is left out (configuration_glm4_moe_lite.py).
_DEFAULT_RANK, _DEFAULT_QUERY_RANK, _DEFAULT_KEY_DIM, _DEFAULT_TURNED_DIM, _DEFAULT_VALUE_DIM = 512, 768, 192, 64, 256
_DEFAULT_EPSILON, _DEFAULT_POSITIONS = 1e-5, 202_752
# Of the norms of latents, whatever rms_norm_eps says (modeling_glm4_moe_lite.py, Glm4MoeLiteRMSNorm's default).
_LATENT_EPSILON = 1e-6
_HEAD_DIM_STEP = 16


def parse_config(reader: ConfigReader) -> ModelConfig:
    reader.check_activation("silu", "swish")
    heads = reader.integer("num_attention_heads", 1, 1024)
    if (kv_heads := reader.integer("num_key_value_heads", 1, 1024, heads)) != heads:
        wrong(f"num_key_value_heads ({kv_heads}) is not num_attention_heads ({heads}): every head has keys of its own here")
    turned = reader.integer("qk_rope_head_dim", 2, 512, _DEFAULT_TURNED_DIM)
    if reader.rotary_dim(turned, 1.0) != turned:
        wrong("partial_rotary_factor is not 1: qk_rope_head_dim is what turns")
    if reader.rope().number("mscale_all_dim", -1e3, 1e3, 0.0):
        wrong("mscale_all_dim is not supported: it would scale what does not turn, too")
    halves = not reader.boolean("rope_interleave", True)
    if halves:
        glm4_moe.check_halves("qk_rope_head_dim", turned)
    latent = Latent(
        rank=reader.integer("kv_lora_rank", 1, 4096, _DEFAULT_RANK),
        query_rank=0 if reader.is_null("q_lora_rank") else reader.integer("q_lora_rank", 1, 1 << 14, _DEFAULT_QUERY_RANK),
        key_dim=reader.integer("qk_nope_head_dim", 1, 1024, _DEFAULT_KEY_DIM),
        value_dim=reader.integer("v_head_dim", 1, 1024, _DEFAULT_VALUE_DIM),
    )
    if (head_dim := latent.rank + turned) % _HEAD_DIM_STEP:
        wrong(f"kv_lora_rank + qk_rope_head_dim ({head_dim}) is no multiple of {_HEAD_DIM_STEP}, which the attention operator needs")
    layers = reader.integer("num_hidden_layers", 1, 1024)
    return ModelConfig(
        architecture=GLM4_MOE_LITE.names[0],
        hidden_size=reader.integer("hidden_size", 1, 1 << 16),
        layers=layers,
        heads=heads,
        kv_heads=1,
        head_dim=head_dim,
        intermediate_size=reader.integer("intermediate_size", 1, 1 << 20),
        vocab_size=reader.vocab_size(),
        norm_epsilon=reader.number("rms_norm_eps", 1e-20, 0.1, _DEFAULT_EPSILON),
        rope_theta=reader.rope_theta(),
        rotary_dim=turned,
        qkv_bias=reader.boolean("attention_bias"),
        tied_head=reader.boolean("tie_word_embeddings"),
        max_positions=max_positions(reader, _DEFAULT_POSITIONS),
        eos_token_ids=reader.eos_token_ids(),
        rope_scaling=rope_scaling(reader, turned, _DEFAULT_POSITIONS),
        rotary_halves=halves,
        experts=replace(glm4_moe.parse_experts(reader, layers), first_layer=_dense_layers(reader, layers)),
        latent=latent,
    )


def _dense_layers(reader: ConfigReader, layers: int) -> int:
    """mlp_layer_types says it layer by layer; first_k_dense_replace, which older files have, by number."""
    kinds = reader.texts("mlp_layer_types")
    if kinds is None:
        return reader.integer("first_k_dense_replace", 0, layers, 1)
    dense = kinds.index("sparse") if "sparse" in kinds else len(kinds)
    if kinds != ["dense"] * dense + ["sparse"] * (layers - dense):
        wrong(f"mlp_layer_types is not a kind for each of {layers} layers, first 'dense', then 'sparse'")
    return dense


def layer(config: ModelConfig, number: int) -> Block:
    """Parts as GLM-4.5's: of a layer with experts, the first is what every token reads."""
    experts = glm4_moe.mixture(config)
    part = glm4_moe.ATTENTION if number >= experts.first_layer else ""
    normed, mixed = value(part, "post_norm.out"), value(part, "mixed")
    mlp: tuple[Operator, ...]
    if part:
        mlp = (glm4_moe.routed(config, experts, normed, mixed),)
    else:
        mlp, mixed = swiglu(part, normed, config.hidden_size, config.intermediate_size), value(part, "down.out")
    attended = value(part, ATTENDED)
    operators = (
        rms_norm(config, part, "input_norm", INPUT),
        *_attention(config, part, value(part, "input_norm.out")),
        Add(INPUT, value(part, "o.out"), attended),
        rms_norm(config, part, "post_norm", attended),
        *mlp,
        Add(attended, mixed, MIXED),
    )
    return Block(operators, MIXED)


def _attention(config: ModelConfig, part: str, normed: str) -> tuple[Operator, ...]:
    """Of `normed`, up to "o.out". A head of queries, and the key, is [what turns, latent]."""
    latent, heads, turned = latent_of(config), range(config.heads), config.rotary_dim
    rotary = Rotary(turned, config.rope_theta, config.rotary_halves, config.rope_scaling)

    def named(name: str) -> str:
        return value(part, name)

    def product(name: str, source: str, rows: int, columns: int) -> Linear:
        return linear(part, name, source, rows, columns)

    own, turning = ([named(f"queries.{head}.{what}") for head in heads] for what in ("own", "turning"))
    queries, key = named("queries"), named("key")
    sizes = (latent.key_dim, turned) * config.heads
    cache = Cache(*(TensorParameter(part, name, (config.head_dim,)) for name in (KEY_SCALES, VALUE_SCALES)))
    attended, of_latents = named("attention.out"), [named(f"attention.{head}") for head in heads]
    return (
        *_query_products(config, part, normed),
        Split(named("q_b.out"), tuple(name for pair in zip(own, turning, strict=True) for name in pair), sizes),
        *(product(f"k_up.{head}", own[head], latent.rank, latent.key_dim) for head in heads),
        Join(tuple(name for head in heads for name in (turning[head], named(f"k_up.{head}.out"))), queries),
        linear(part, "kv_a", normed, config.head_dim, config.hidden_size, bias=config.qkv_bias),
        Split(named("kv_a.out"), (named("latent"), named("turning")), (latent.rank, turned)),
        _latent_norm(part, "kv_norm", named("latent"), latent.rank),
        Join((named("turning"), named("kv_norm.out")), key),
        Rope(queries, f"{queries}.turned", rotary),
        Rope(key, f"{key}.turned", rotary),
        Attention(
            f"{queries}.turned",
            f"{key}.turned",
            f"{key}.turned",
            attended,
            config.heads,
            config.kv_heads,
            config.head_dim,
            causal=True,
            cache=cache,
            scale=(latent.key_dim + turned) ** -0.5,
        ),
        Split(attended, tuple(name for latents in of_latents for name in ("", latents)), (turned, latent.rank) * config.heads),
        *(product(f"v_up.{head}", of_latents[head], latent.value_dim, latent.rank) for head in heads),
        Join(tuple(named(f"v_up.{head}.out") for head in heads), named("values")),
        linear(part, "o", named("values"), config.hidden_size, config.heads * latent.value_dim, bias=config.qkv_bias),
    )


def _query_products(config: ModelConfig, part: str, normed: str) -> tuple[Operator, ...]:
    """Of `normed`, up to "q_b.out", which has each head's elements that do not turn before those that do."""
    latent = latent_of(config)
    rows = config.heads * (latent.key_dim + config.rotary_dim)
    if not latent.query_rank:
        return (linear(part, "q_b", normed, rows, config.hidden_size),)
    return (
        linear(part, "q_a", normed, latent.query_rank, config.hidden_size, bias=config.qkv_bias),
        _latent_norm(part, "q_a_norm", value(part, "q_a.out"), latent.query_rank),
        linear(part, "q_b", value(part, "q_a_norm.out"), rows, latent.query_rank),
    )


def _latent_norm(part: str, name: str, source: str, width: int) -> Norm:
    return Norm(source, value(part, f"{name}.out"), TensorParameter(part, name, (width,)), None, _LATENT_EPSILON)


def file_names(config: ModelConfig) -> FileNames:
    latent = latent_of(config)
    attention: InnerNames = {
        "input_norm": ("input_layernorm.weight",),
        "q_a.weight": ("self_attn.q_a_proj.weight",),
        "q_a.bias": ("self_attn.q_a_proj.bias",),
        "q_a_norm": ("self_attn.q_a_layernorm.weight",),
        "q_b.weight": ("self_attn.q_b_proj.weight" if latent.query_rank else "self_attn.q_proj.weight",),
        "kv_a.weight": ("self_attn.kv_a_proj_with_mqa.weight",),
        "kv_a.bias": ("self_attn.kv_a_proj_with_mqa.bias",),
        "kv_norm": ("self_attn.kv_a_layernorm.weight",),
        "o.weight": ("self_attn.o_proj.weight",),
        "o.bias": ("self_attn.o_proj.bias",),
        "post_norm": ("post_attention_layernorm.weight",),
        **up_names(config, "self_attn.kv_b_proj.weight"),
    }
    return FileNames(glm.OUTER, glm.LAYER, {**glm4_moe.of_attention(attention), **glm4_moe.mlp_names(config)})


def up_names(config: ModelConfig, name: str) -> InnerNames:
    """Of heads' matrices in a file that has them in one [heads x (key_dim + value_dim), rank], a head's key rows before its value rows."""
    latent = latent_of(config)
    size = latent.key_dim + latent.value_dim
    whole = (config.heads * size, latent.rank)
    keys = {f"k_up.{head}.weight": (Rows(name, whole, head * size, transposed=True),) for head in range(config.heads)}
    return {**keys, **{f"v_up.{head}.weight": (Rows(name, whole, head * size + latent.key_dim),) for head in range(config.heads)}}


def latent_of(config: ModelConfig) -> Latent:
    """Of a config of this family."""
    assert config.latent is not None
    return config.latent


GLM4_MOE_LITE = replace(
    glm4_moe.GLM4_MOE,
    names=("Glm4MoeLiteForCausalLM",),
    model_type="glm4_moe_lite",
    parse_config=parse_config,
    layer=layer,
    file_names=file_names,
)
