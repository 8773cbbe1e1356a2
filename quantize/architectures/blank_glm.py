"""The original GLM (GLM-2B, GLM-10B): fills blanks. Two layer norms a layer, GELU, learned positions, a prefix that sees all of itself.

Sources: THUDM/GLM, mpu/transformer.py, and the modeling_glm.py that the hub keeps beside the checkpoints. GELU is the hub's, exact; the
training code's is tanh's approximation (0.001 rms in the logits). What follows the prefix is decoded row by row, and sees all before it:
so one graph without a causal mask serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from protos.errors import InvalidInput
from protos.manifest import ModelConfig
from quantize.architectures.architecture import Architecture
from quantize.architectures.decoder import ATTENDED, MIXED, attention, layer_norm, linear, output_head
from quantize.config_reader import ConfigReader, wrong
from quantize.layers.operators import INPUT, Add, Block, Embed, Gelu, LearnedPositions, TensorParameter
from quantize.sources import FileNames

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


def _embedding(config: ModelConfig) -> Block:
    """Token, position and block position, added once."""
    shape = (config.learned_positions, config.hidden_size)
    tables = (TensorParameter("", "positions", shape), TensorParameter("", "block_positions", shape))
    table = TensorParameter("", "weight", (config.vocab_size, config.hidden_size))
    return Block((Embed(INPUT, "rows", table), LearnedPositions("rows", "placed", tables)), "placed")


def _layer(config: ModelConfig, number: int) -> Block:
    """Attention and GELU, each on the normed residual stream; every matrix has a bias."""
    hidden, width = config.hidden_size, config.intermediate_size
    operators = (
        layer_norm(config, "", "input_norm", INPUT),
        *attention(config, "", "input_norm.out", bias=True),
        Add(INPUT, "o.out", ATTENDED),
        layer_norm(config, "", "post_norm", ATTENDED),
        linear("", "up", "post_norm.out", width, hidden, bias=True),
        Gelu("up.out", "activated", width),
        linear("", "down", "activated", hidden, width, bias=True),
        Add(ATTENDED, "down.out", MIXED),
    )
    return Block(operators, MIXED)


def _head(config: ModelConfig) -> Block:
    return output_head(config, layer_norm(config, "", "norm", INPUT))


def _file_names(config: ModelConfig) -> FileNames:
    return FileNames(_OUTER, "transformer.layers.{}.", _INNER)


def _ignored(config: ModelConfig, name: str) -> bool:
    """Heads of other tasks, which the hub's code adds beside the decoder."""
    return not name.startswith(("transformer.", "word_embeddings."))


BLANK_GLM = Architecture(
    names=("GLMForConditionalGeneration", "GLMModel"),
    model_type="glm-original",  # theirs is "glm" too: `architectures` tells them apart
    parse_config=_parse_config,
    embedding=_embedding,
    layer=_layer,
    head=_head,
    file_names=_file_names,
    ignored=_ignored,
    with_tokens=_with_tokens,
    file_prefix="glm.",
)
