"""Attention over a latent in a GGUF file of llama.cpp's `deepseek2`, as GLM-4.7-Flash is stored."""

from __future__ import annotations

from dataclasses import replace

from protos.manifest import Latent, ModelConfig
from quantize.architectures.glm4_moe_lite import latent_of, up_names
from quantize.checkpoints.gguf_file import GgufFile
from quantize.sources import InnerNames, Rows

# Older files have a layer's matrices of heads in one, and give the sizes of heads without the latent.
_TOGETHER = "attn_kv_b.weight"
_HEAD_DIM_STEP = 16


def with_latent(file: GgufFile, config: ModelConfig) -> ModelConfig:
    """`config`, with what the metadata say of the latent. Raises InvalidInput."""
    own = file.text("general.architecture")
    for key in ("rope.scaling.factor", "rope.scaling.yarn_log_multiplier", "attention.temperature_scale"):
        if file.has(f"{own}.{key}"):
            file.refuse(f"{own}.{key} is not supported")
    turned, rank = config.rotary_dim, file.integer(f"{own}.attention.kv_lora_rank", 1, 4096)
    key_dim, value_dim = (file.integer(f"{own}.attention.{what}_length{_mla(file)}", 1, 1024) for what in ("key", "value"))
    if key_dim <= turned or (rank + turned) % _HEAD_DIM_STEP:
        file.refuse(f"heads of {key_dim}, {turned} of them rotated, over a latent of {rank}, cannot be")
    query_rank = file.integer(f"{own}.attention.q_lora_rank", 0, 1 << 14, 0)
    latent = Latent(rank=rank, query_rank=query_rank, key_dim=key_dim - turned, value_dim=value_dim)
    return replace(config, kv_heads=1, head_dim=rank + turned, latent=latent)


def latent_names(file: GgufFile, config: ModelConfig) -> InnerNames:
    latent = latent_of(config)
    names: InnerNames = {
        "q_a.weight": ("attn_q_a.weight",),
        "q_a_norm": ("attn_q_a_norm.weight",),
        "q_b.weight": ("attn_q_b.weight" if latent.query_rank else "attn_q.weight",),
        "kv_a.weight": ("attn_kv_a_mqa.weight",),
        "kv_norm": ("attn_kv_a_norm.weight",),
    }
    if f"blk.0.{_TOGETHER}" in file.tensor_names:
        return {**names, **up_names(config, _TOGETHER)}
    keys, values = (config.heads, latent.rank, latent.key_dim), (config.heads, latent.value_dim, latent.rank)
    ups = {f"k_up.{head}.weight": (Rows("attn_k_b.weight", keys, head * latent.rank),) for head in range(config.heads)}
    ups |= {f"v_up.{head}.weight": (Rows("attn_v_b.weight", values, head * latent.value_dim),) for head in range(config.heads)}
    return {**names, **ups}


def _mla(file: GgufFile) -> str:
    return "" if f"blk.0.{_TOGETHER}" in file.tensor_names else "_mla"
