"""A checkpoint as a GGUF file with Q8_0 weights, for llama.cpp to run the same model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from protos.manifest import ModelConfig
from quantize.blocks import Floats
from quantize.checkpoints.checkpoint import Checkpoint, slabs, tensor_shapes

Q8_0 = gguf.GGMLQuantizationType.Q8_0
_OUTER = {"embedding.weight": "token_embd.weight", "head.norm": "output_norm.weight", "head.weight": "output.weight"}
_WHOLE = {"input_norm": "attn_norm", "o.weight": "attn_output", "post_norm": "ffn_norm", "down.weight": "ffn_down"}


def write_q8_0(checkpoint: Checkpoint, path: Path) -> None:
    """As architecture "llama", whose layer is GLM's without a QKV bias: q and k rows lie in the order of interleaved RoPE pairs in both.

    The file has no vocabulary: tokens go in and come out as ids. Q8_0 is int8 in blocks of 32 with an fp16 scale.
    """
    config = checkpoint.config
    assert not config.qkv_bias
    assert config.rotary_dim == config.head_dim
    assert config.rope_scaling is None
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama", use_temp_file=False)
    _describe(writer, config)
    for name, source, start, stop in _tensors(config):
        _, *columns = tensor_shapes(config)[source]
        if columns:
            rows = [gguf.quantize(checkpoint.read(source, start + a, start + b), Q8_0) for a, b in slabs(stop - start, columns[0])]
            writer.add_tensor(name, np.concatenate(rows), raw_dtype=Q8_0)
        else:
            vector: Floats = checkpoint.read(source, start, stop)
            writer.add_tensor(name, vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(path)


def _describe(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_block_count(config.layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.rotary_dim)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def _tensors(config: ModelConfig) -> Iterator[tuple[str, str, int, int]]:
    """(GGUF's name, neutral name, rows [start, stop) of it)."""
    shapes = tensor_shapes(config)
    for source, name in _OUTER.items():
        if source in shapes:
            yield name, source, 0, shapes[source][0]
    q, kv, ffn = config.query_size, config.kv_size, config.intermediate_size
    for layer in range(config.layers):
        for source, name in _WHOLE.items():
            neutral = f"layers.{layer}.{source}"
            yield f"blk.{layer}.{name}.weight", neutral, 0, shapes[neutral][0]
        for name, start, stop in (("attn_q", 0, q), ("attn_k", q, q + kv), ("attn_v", q + kv, q + 2 * kv)):
            yield f"blk.{layer}.{name}.weight", f"layers.{layer}.qkv.weight", start, stop
        for name, start in (("ffn_gate", 0), ("ffn_up", ffn)):
            yield f"blk.{layer}.{name}.weight", f"layers.{layer}.gate_up.weight", start, start + ffn
