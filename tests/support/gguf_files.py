"""Writes the tiny random checkpoints of `tests.support.checkpoints` as GGUF files, as llama.cpp's converter lays them out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from tests.support.checkpoints import CHAT_TEMPLATE, SPECIAL_TOKENS, TinyGlm, byte_characters, random_tensors

_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_INNER = {
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOKENS = [*byte_characters(), *SPECIAL_TOKENS, "Ġt"]
TYPES = [1] * 256 + [3] * len(SPECIAL_TOKENS) + [1]
_TINY = TinyGlm()


def write_gguf(
    path: Path,
    model: TinyGlm = _TINY,
    *,
    architecture: str = "chatglm",
    fused_qkv: bool = False,
    types: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    pre: str = "chatglm-bpe",
    metadata: Mapping[str, object] | None = None,
    without: frozenset[str] = frozenset(),
    extra: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Path:
    """`types`: by the last word of a tensor's name ("ffn_up"), else F32. `metadata` goes over the rest (None: left out)."""
    head_dim = model.head_dim
    values: dict[str, object] = {
        "general.name": "Tiny GLM",
        "general.license": "mit",
        f"{architecture}.block_count": model.layers,
        f"{architecture}.context_length": model.max_positions,
        f"{architecture}.embedding_length": model.hidden_size,
        f"{architecture}.feed_forward_length": model.intermediate_size,
        f"{architecture}.attention.head_count": model.heads,
        f"{architecture}.attention.head_count_kv": model.kv_heads,
        f"{architecture}.attention.key_length": head_dim,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.rope.dimension_count": int(head_dim * model.rotary_fraction),
        f"{architecture}.rope.freq_base": 10000.0,
        **_TOKENIZER,
        "tokenizer.ggml.pre": pre,
        **(metadata or {}),
    }
    found = {**tensors(random_tensors(model), model.layers, architecture, fused_qkv), **(extra or {})}
    return _write(path, architecture, values, {name: array for name, array in found.items() if name not in without}, types or {})


def write_gguf_of(
    folder: Path, path: Path, architecture: str, metadata: Mapping[str, object] | None = None, without: frozenset[str] = frozenset()
) -> Path:
    """Of a Hugging Face folder, in F32. `metadata` and `without` as `write_gguf`'s."""
    config = json.loads((folder / "config.json").read_text())
    rope = config.get("rope_parameters") or config
    stored: dict[str, npt.NDArray[Any]] = {}
    for file in folder.glob("*.safetensors"):
        stored |= load_file(file)
    layers, head_dim = config["num_hidden_layers"], config.get("head_dim", 0)
    arrays = mixture_tensors(stored, config, architecture) if "n_routed_experts" in config else tensors(stored, layers, architecture)
    values: dict[str, object] = {
        f"{architecture}.block_count": layers,
        f"{architecture}.context_length": config["max_position_embeddings"],
        f"{architecture}.embedding_length": config["hidden_size"],
        f"{architecture}.feed_forward_length": config["intermediate_size"],
        f"{architecture}.attention.head_count": config["num_attention_heads"],
        f"{architecture}.attention.head_count_kv": config["num_key_value_heads"],
        f"{architecture}.attention.key_length": head_dim,
        f"{architecture}.attention.value_length": head_dim,
        f"{architecture}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{architecture}.rope.dimension_count": int(head_dim * rope["partial_rotary_factor"]),
        f"{architecture}.rope.freq_base": float(rope["rope_theta"]),
        **(_mixture(config, architecture) if "n_routed_experts" in config else {}),
        **(_latent(config, architecture) if "kv_lora_rank" in config else {}),
        **_TOKENIZER,
        "tokenizer.ggml.pre": "glm4",
        "tokenizer.ggml.tokens": [*TOKENS, *(f"[PAD{number}]" for number in range(len(TOKENS), config["vocab_size"]))],
        "tokenizer.ggml.token_type": [*TYPES, *([gguf.TokenType.UNUSED.value] * (config["vocab_size"] - len(TOKENS)))],
        **(metadata or {}),
    }
    return _write(path, architecture, values, {name: array for name, array in arrays.items() if name not in without}, {})


def _mixture(config: Mapping[str, Any], architecture: str) -> dict[str, object]:
    predicting = config.get("num_nextn_predict_layers", 0)
    kinds = config.get("mlp_layer_types") or ["dense"] * config["first_k_dense_replace"]
    return {
        f"{architecture}.block_count": config["num_hidden_layers"] + predicting,
        f"{architecture}.nextn_predict_layers": predicting or None,
        f"{architecture}.expert_count": config["n_routed_experts"],
        f"{architecture}.expert_used_count": config["num_experts_per_tok"],
        f"{architecture}.expert_shared_count": config["n_shared_experts"],
        f"{architecture}.expert_feed_forward_length": config["moe_intermediate_size"],
        f"{architecture}.expert_group_count": config["n_group"],
        f"{architecture}.expert_group_used_count": config["topk_group"],
        f"{architecture}.expert_gating_func": gguf.ExpertGatingFuncType.SIGMOID.value,
        f"{architecture}.expert_weights_norm": config["norm_topk_prob"] or None,
        f"{architecture}.expert_weights_scale": float(config["routed_scaling_factor"]),
        f"{architecture}.leading_dense_block_count": kinds.count("dense"),
    }


def _latent(config: Mapping[str, Any], architecture: str) -> dict[str, object]:
    rank, turned = config["kv_lora_rank"], config["qk_rope_head_dim"]
    return {
        f"{architecture}.attention.head_count_kv": 1,
        f"{architecture}.attention.key_length": rank + turned,
        f"{architecture}.attention.value_length": rank,
        f"{architecture}.attention.key_length_mla": config["qk_nope_head_dim"] + turned,
        f"{architecture}.attention.value_length_mla": config["v_head_dim"],
        f"{architecture}.attention.kv_lora_rank": rank,
        f"{architecture}.attention.q_lora_rank": config["q_lora_rank"],
        f"{architecture}.rope.dimension_count": turned,
    }


_TOKENIZER: dict[str, object] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": TYPES,
    "tokenizer.ggml.merges": ["Ġ t"],
    "tokenizer.ggml.eos_token_id": 256,
    "tokenizer.ggml.eot_token_id": 260,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": CHAT_TEMPLATE,
}


def _write(
    path: Path,
    architecture: str,
    values: Mapping[str, object],
    arrays: Mapping[str, npt.NDArray[Any]],
    types: Mapping[str, gguf.GGMLQuantizationType],
) -> Path:
    writer = gguf.GGUFWriter(path, str(values.get("general.architecture", architecture)))
    for key, value in values.items():
        if key != "general.architecture":
            _add(writer, key, value)
    for name, array in arrays.items():
        kind = types.get(name.split(".")[-2], gguf.GGMLQuantizationType.F32)
        if array.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, array.astype(np.float32))
        else:
            writer.add_tensor(name, gguf.quantize(array.astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(stored: Mapping[str, npt.NDArray[Any]], layers: int, architecture: str, fused_qkv: bool = False) -> dict[str, npt.NDArray[Any]]:
    """Of a Hugging Face checkpoint, by the names in the file."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name, array in stored.items():
        stem, kind = name.rsplit(".", 1)
        if stem in _OUTER:
            found[f"{_OUTER[stem]}.{kind}"] = array
            continue
        _, _, layer, inner = stem.split(".", 3)
        short = f"blk.{layer}.{_INNER[inner]}.{kind}"
        if architecture == "llama" and inner == "mlp.gate_up_proj":
            found[f"blk.{layer}.ffn_gate.{kind}"], found[short] = np.split(array, 2)
        else:
            found[short] = array
    if fused_qkv:
        for number in range(layers):
            for kind in ("weight", "bias") if f"blk.{number}.attn_q.bias" in found else ("weight",):
                found[f"blk.{number}.attn_qkv.{kind}"] = np.concatenate([found.pop(f"blk.{number}.attn_{part}.{kind}") for part in "qkv"])
    return found


def mixture_tensors(stored: Mapping[str, npt.NDArray[Any]], config: Mapping[str, Any], architecture: str) -> dict[str, npt.NDArray[Any]]:
    """Of a checkpoint with experts, layers that predict further tokens included: experts in one tensor, and of a latent's heads too."""
    kinds = gguf.MODEL_ARCH.DEEPSEEK2 if architecture == "deepseek2" else gguf.MODEL_ARCH.GLM4_MOE
    names = gguf.get_tensor_name_map(kinds, config["num_hidden_layers"] + 1)
    predicting = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GLM4_MOE, config["num_hidden_layers"] + 1)
    experts: dict[str, list[npt.NDArray[Any]]] = {}
    found: dict[str, npt.NDArray[Any]] = {}
    for name in sorted(stored, key=lambda name: [int(part) if part.isdigit() else part for part in name.split(".")]):
        stem, kind = name.removesuffix("_bias").rsplit(".", 1) if name.endswith("e_score_correction_bias") else name.rsplit(".", 1)
        if ".experts." in stem:
            of_all = re.sub(r"\.experts\.\d+", ".experts", stem)
            experts.setdefault(f"{names.get_name(of_all)}.weight", []).append(stored[name])
        elif stem.endswith("kv_b_proj") and architecture == "deepseek2":
            heads = stored[name].reshape(config["num_attention_heads"], -1, config["kv_lora_rank"])
            layer = stem.split(".")[2]
            found[f"blk.{layer}.attn_k_b.weight"] = heads[:, : config["qk_nope_head_dim"]].transpose(0, 2, 1)
            found[f"blk.{layer}.attn_v_b.weight"] = heads[:, config["qk_nope_head_dim"] :]
        elif kind == "e_score_correction":
            found[f"{names.get_name(f'{stem}.e_score_correction')}.bias"] = stored[name]
        else:
            found[f"{names.get_name(stem) or predicting.get_name(stem)}.{kind}"] = stored[name]
    return found | {name: np.stack(each) for name, each in experts.items()}


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    match value:
        case None | []:  # the package writes no empty array
            pass
        case list():
            writer.add_array(key, value)
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            raise TypeError(f"{key}: no kind of value for {value!r}")
