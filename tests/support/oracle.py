"""A plain fp32 numpy GLM decoder, against which graphs are judged: it shares no code with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from protos.manifest import Manifest, ModelConfig

Floats = npt.NDArray[np.float32]


class Answer(NamedTuple):
    """`logits` [S, V]; `hidden[i]` [S, H] is the residual stream before layer i, `hidden[layers]` what the final norm gets."""

    logits: Floats
    hidden: list[Floats]


def load_weights(manifest: Manifest, blob_folder: Path) -> dict[str, Floats]:
    """Every tensor of the artifact by "part.tensor", matrices dequantized to float32 [N, Kp] under their weight's name."""
    weights: dict[str, Floats] = {}
    for part in manifest.parts:
        variant = part.variants[0]
        packed: dict[str, npt.NDArray[np.uint8]] = {}
        plain: dict[str, Floats] = {}
        for tensor in variant.tensors:
            path, count = blob_folder / variant.blobs[tensor.blob].digest, int(np.prod(tensor.shape))
            match tensor.dtype:
                case "uint8":
                    packed[tensor.name] = np.fromfile(path, np.uint8, count, offset=tensor.offset).reshape(tensor.shape)
                case "float32":
                    plain[tensor.name] = np.fromfile(path, "<f4", count, offset=tensor.offset).reshape(tensor.shape)
                case other:
                    raise ValueError(f"{part.name}.{tensor.name}: no {other} is known here")
        for name, values in packed.items():
            if name.endswith("zero_points"):
                continue
            scales, zeros = plain[name.removesuffix("weight") + "scales"], packed.get(name.removesuffix("weight") + "zero_points")
            blocks = _levels(values.reshape(*scales.shape, -1), manifest.quantization.block_size).astype(np.float32)
            middle = np.float32(8 if values.size < blocks.size else 128)
            blocks -= middle if zeros is None else _levels(zeros, scales.shape[1])[..., : scales.shape[1], None]
            weights[f"{part.name}.{name}"] = (blocks * scales[..., None]).reshape(len(values), -1)
        weights |= {f"{part.name}.{name}": values for name, values in plain.items() if not name.endswith("scales")}
    return weights


def _levels(packed: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """`count` values along the last axis, of which two may share a byte."""
    if packed.shape[-1] >= count:
        return packed
    halves: npt.NDArray[np.uint8] = np.stack([packed % 16, packed // 16], axis=-1).reshape(*packed.shape[:-1], -1)
    return halves


def run(config: ModelConfig, weights: Mapping[str, Floats], token_ids: list[int]) -> Answer:
    """The whole sequence at once, causal, no cache."""
    width = config.hidden_size
    hidden = weights["embedding.weight"][token_ids, :width]
    trace = [hidden]
    for layer in range(config.layers):

        def weight(name: str, layer: int = layer) -> Floats:
            return weights[f"layers.{layer}.{name}"]

        normed = _rms_norm(hidden, weight("input_norm"), config.norm_epsilon)
        qkv = normed @ weight("qkv.weight")[:, :width].T
        if config.qkv_bias:
            qkv = qkv + weight("qkv.bias")
        attended = _attention(config, qkv)
        hidden = hidden + attended @ weight("o.weight")[:, : config.heads * config.head_dim].T
        normed = _rms_norm(hidden, weight("post_norm"), config.norm_epsilon)
        gate, up = np.split(normed @ weight("gate_up.weight")[:, :width].T, 2, axis=1)
        hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ weight("down.weight")[:, : config.intermediate_size].T
        trace.append(hidden)
    normed = _rms_norm(hidden, weights["head.norm"], config.norm_epsilon)
    return Answer(normed @ weights["head.weight"][:, :width].T, trace)


def _rms_norm(rows: Floats, gain: Floats, epsilon: float) -> Floats:
    return (rows / np.sqrt(np.mean(rows * rows, axis=-1, keepdims=True) + epsilon) * gain).astype(np.float32)


def _attention(config: ModelConfig, qkv: Floats) -> Floats:
    count, size = len(qkv), config.head_dim
    rows = qkv.reshape(count, config.heads + 2 * config.kv_heads, size).transpose(1, 0, 2)
    queries = _rotate(config, rows[: config.heads])
    keys = _rotate(config, rows[config.heads : config.heads + config.kv_heads])
    values = rows[config.heads + config.kv_heads :]
    future = np.triu(np.ones((count, count), bool), 1)
    heads = []
    for head, query in enumerate(queries):
        shared = head // (config.heads // config.kv_heads)
        scores = np.where(future, -np.inf, query @ keys[shared].T / np.sqrt(np.float32(size)))
        odds = np.exp(scores - scores.max(axis=-1, keepdims=True))
        heads.append((odds / odds.sum(axis=-1, keepdims=True)) @ values[shared])
    return np.concatenate(heads, axis=1).astype(np.float32)


def _rotate(config: ModelConfig, heads: Floats) -> Floats:
    """Pairs (2i, 2i + 1) of the first rotary_dim dimensions turn by position * theta^(-2i / rotary_dim), as complex numbers."""
    turned = heads.copy()
    positions = np.arange(heads.shape[1])[:, None]
    rates = float(config.rope_theta) ** -(np.arange(0, config.rotary_dim, 2) / config.rotary_dim)
    pairs = (heads[..., 0 : config.rotary_dim : 2] + 1j * heads[..., 1 : config.rotary_dim : 2]) * np.exp(1j * positions * rates)
    turned[..., 0 : config.rotary_dim : 2] = pairs.real
    turned[..., 1 : config.rotary_dim : 2] = pairs.imag
    return turned
