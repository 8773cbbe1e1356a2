from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from benchmarks.gguf_file import write_q8_0
from benchmarks.models import RandomCheckpoint, glm_edge, numbered_words, prepare
from device.text.model import TextModel
from protos.errors import NotFound
from quantize.checkpoints.checkpoint import tensor_shapes

SMALL = replace(
    glm_edge().config,
    hidden_size=64,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=32,
    intermediate_size=96,
    vocab_size=1300,
    rotary_dim=32,
    eos_token_ids=(1299,),
)


def test_the_edge_model_has_its_published_size() -> None:
    # model.safetensors of zai-org/glm-edge-1.5b-chat on the hub has 3.19 GB in bf16.
    shapes = tensor_shapes(glm_edge().config)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == pytest.approx(1.593e9, rel=0.001)


def test_random_rows_do_not_depend_on_how_they_are_asked_for() -> None:
    checkpoint = RandomCheckpoint(SMALL, {})
    whole = checkpoint.read("embedding.weight", 0, 1300)
    assert whole.shape == (1300, 64)
    assert np.array_equal(np.concatenate([checkpoint.read("embedding.weight", a, b) for a, b in ((0, 700), (700, 1300))]), whole)
    assert np.array_equal(checkpoint.read("embedding.weight", 511, 513), whole[511:513])
    assert not np.array_equal(checkpoint.read("head.weight", 0, 10), whole[:10])
    assert whole.std() == pytest.approx(1 / 8, rel=0.02)


def test_every_token_is_text() -> None:
    text = TextModel.load({"tokenizer.json": numbered_words(300)}, (299,), 300)
    stream = text.stream()
    assert [stream.push([token]) for token in (7, 255, 12)] == [" w7", " w255", " w12"]


def test_gguf_holds_the_same_weights(tmp_path: Path) -> None:
    checkpoint = RandomCheckpoint(SMALL, {})
    write_q8_0(checkpoint, tmp_path / "small.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["small.gguf"]
    reader = gguf.GGUFReader(tmp_path / "small.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == 3 + 2 * 9
    up = tensors["blk.1.ffn_up.weight"]
    assert up.tensor_type == gguf.GGMLQuantizationType.Q8_0
    wanted = checkpoint.read("layers.1.gate_up.weight", 96, 192)
    assert np.abs(gguf.dequantize(up.data, up.tensor_type) - wanted).max() <= np.abs(wanted).max() / 127
    field = reader.get_field("llama.attention.head_count_kv")
    assert field
    assert field.contents() == 1


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(NotFound, match="gpt"):
        prepare("gpt", Path("nowhere"))


def test_tokenizer_json_is_valid() -> None:
    assert len(json.loads(numbered_words(10))["model"]["vocab"]) == 10
