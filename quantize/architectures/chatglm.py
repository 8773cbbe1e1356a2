"""ChatGLMModel: ChatGLM2, ChatGLM3, GLM-4-9B as first published and GLM-4V-9B's text tower, which are GlmForCausalLM with other names in
config.json and in the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from protos.manifest import ModelConfig
from quantize.architectures import glm, glm4_moe
from quantize.config_reader import ConfigReader, wrong
from quantize.rope import linear
from quantize.rope_settings import check_unscaled
from quantize.sources import FileNames

# What these models' own code assumes where a key is left out (configuration_chatglm.py).
_DEFAULT_EPSILON, _DEFAULT_POSITIONS, _THETA = 1e-5, 2048, 10_000.0
# Rotary positions turn half of each head.
_ROTARY_SHARE = 2
_ENDS = ("</s>", "<|user|>", "<|observation|>")

_OUTER = {
    "embedding.weight": "transformer.embedding.word_embeddings.weight",
    "head.norm": "transformer.encoder.final_layernorm.weight",
    "head.weight": "transformer.output_layer.weight",
}
_LAYER = "transformer.encoder.layers.{}."
_INNER = {
    "input_norm": ("input_layernorm.weight",),
    "qkv.weight": ("self_attention.query_key_value.weight",),
    "qkv.bias": ("self_attention.query_key_value.bias",),
    "o.weight": ("self_attention.dense.weight",),
    "post_norm": ("post_attention_layernorm.weight",),
    "gate_up.weight": ("mlp.dense_h_to_4h.weight",),
    "down.weight": ("mlp.dense_4h_to_h.weight",),
}


# What config.json must say, or leave out: what another value does is in no layer here.
_ONLY = {
    "rmsnorm": True,
    "apply_residual_connection_post_layernorm": False,
    "add_bias_linear": False,
    "post_layer_norm": True,
    "position_encoding_2d": False,  # the first ChatGLM-6B
}


def parse_config(reader: ConfigReader) -> ModelConfig:
    """Raises InvalidInput also for what these models' code has and no published checkpoint that we know of, and for the first ChatGLM."""
    for key, wanted in _ONLY.items():
        if reader.boolean(key, wanted) is not wanted:
            wrong(f"{key} must be {str(wanted).lower()}: other ChatGLM models are not supported")
    check_unscaled(reader)
    if not reader.boolean("multi_query_attention"):  # each head's query, key and value would be neighbours in one matrix
        wrong("multi_query_attention must be true: other ChatGLM models are not supported")
    for key in ("pre_seq_len", "quantization_bit"):
        if reader.integer(key, 0, 1 << 20, 0):
            wrong(f"{key} is not supported: give the checkpoint as it was before tuning by prefixes or quantization")
    ratio = reader.number("rope_ratio", 1e-6, 1e6, 1.0)
    divides = ratio != 1 and "chatglm2" in reader.text("_name_or_path", "").lower()  # ChatGLM2-6B-32K, positions; the others multiply theta
    heads = reader.integer("num_attention_heads", 1, 1024)
    kv_heads = reader.integer("multi_query_group_num", 1, 1024)
    if heads % kv_heads:
        wrong(f"num_attention_heads ({heads}) is no multiple of multi_query_group_num ({kv_heads})")
    head_dim = reader.head_dim(key="kv_channels")
    halves, rotary_dim = not reader.boolean("original_rope", True), head_dim // _ROTARY_SHARE
    if halves and rotary_dim % glm4_moe.ROTARY_STEP:
        wrong(
            f"kv_channels / {_ROTARY_SHARE} ({rotary_dim}) is no multiple of {glm4_moe.ROTARY_STEP}, which original_rope false needs here"
        )
    vocab_size = reader.vocab_size("padded_vocab_size")
    return ModelConfig(
        architecture=CHATGLM.names[0],
        hidden_size=reader.integer("hidden_size", 1, 1 << 16),
        layers=reader.integer("num_layers", 1, 1024),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=reader.integer("ffn_hidden_size", 1, 1 << 20),
        vocab_size=vocab_size,
        norm_epsilon=reader.number("layernorm_epsilon", 1e-20, 0.1, _DEFAULT_EPSILON),
        rope_theta=_THETA if divides else _THETA * ratio,
        rotary_dim=rotary_dim,
        qkv_bias=reader.boolean("add_qkv_bias"),
        tied_head=reader.boolean("tie_word_embeddings"),
        max_positions=reader.integer("seq_length", 1, 1 << 24, _DEFAULT_POSITIONS),
        eos_token_ids=reader.eos_token_ids(vocab_size),
        rotary_halves=halves,  # CogAgent-9B
        rope_scaling=linear(_THETA, rotary_dim, ratio) if divides else None,
    )


def _with_tokens(config: ModelConfig, special: Mapping[str, int]) -> ModelConfig:
    """An answer of ChatGLM3's ends where another turn begins, which its config.json does not say (modeling_chatglm.py, `chat`)."""
    ends = [special[text] for text in _ENDS if special.get(text, config.vocab_size) < config.vocab_size]
    return replace(config, eos_token_ids=tuple(dict.fromkeys((*config.eos_token_ids, *ends))))


def file_names(config: ModelConfig) -> FileNames:
    return FileNames(_OUTER, _LAYER, _INNER)


def ignored(config: ModelConfig, name: str) -> bool:
    return name == "transformer.rotary_pos_emb.inv_freq"


CHATGLM = replace(
    glm.GLM,
    names=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    model_type="chatglm",
    parse_config=parse_config,
    file_names=file_names,
    ignored=ignored,
    with_tokens=_with_tokens,
    vision="transformer.vision.",  # GLM-4V-9B
)
