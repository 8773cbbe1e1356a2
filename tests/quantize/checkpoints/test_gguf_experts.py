"""GGUF files of models with experts, and with attention over a latent."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from protos.errors import InvalidInput
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.checkpoint import tensor_shapes
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.gguf_checkpoint import open_gguf
from quantize.checkpoints.gguf_file import open_gguf_file
from quantize.importing.importer import import_model
from tests.quantize.stages import Pipeline
from tests.support.checkpoints import tokenizer_json, write_json
from tests.support.gguf_files import mixture_tensors, write_gguf, write_gguf_of
from tests.support.goldens import golden_folder, reference

FLASH, GLM_4_5 = ("glm-4.7-flash", "deepseek2"), ("glm-4.5", "glm4moe")
NO_GATING = {"deepseek2.expert_gating_func": None}


@pytest.mark.parametrize(("golden", "architecture"), [FLASH, GLM_4_5])
def test_it_computes_what_transformers_does(tmp_path: Path, golden: str, architecture: str) -> None:
    store = ArtifactStore(tmp_path / "store")
    with open_gguf(write_gguf_of(golden_folder(golden), tmp_path / "golden.gguf", architecture)) as checkpoint:
        manifest = import_model(checkpoint, store, "golden", bits=32)
    ids, expected = reference(golden)
    assert np.abs(Pipeline(manifest, store.blob_folder, capacity=128).step(ids[:1], [0])[0] - expected[0]).max() < 1e-3


@pytest.mark.parametrize(
    ("golden", "architecture", "layout"),
    [
        (*FLASH, "experts' gates beside their ups"),
        (*GLM_4_5, "experts' gates beside their ups"),
        (*FLASH, "heads' matrices in one"),
    ],
)
def test_other_layouts_of_the_same_weights(
    tmp_path: Path, golden: str, architecture: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(golden_folder(golden), tmp_path / "folder"))
    write_json(folder / "tokenizer.json", tokenizer_json())
    metadata: dict[str, object] = {}
    if layout == "heads' matrices in one":
        metadata = {"deepseek2.attention.key_length_mla": None, "deepseek2.attention.value_length_mla": None}
        metadata |= {"deepseek2.attention.key_length": 20, "deepseek2.attention.value_length": 14, "deepseek2.attention.head_count_kv": 3}
        metadata |= {"deepseek2.rope.dimension_count": 8}

    def arranged(stored: dict[str, np.ndarray], config: dict[str, object], architecture: str) -> dict[str, np.ndarray]:
        found = mixture_tensors(stored, config, architecture)
        for name in list(found):
            if layout == "experts' gates beside their ups" and name.endswith("ffn_gate_exps.weight"):
                both = (found.pop(name), found.pop(name.replace("gate", "up")))
                found[name.replace("gate", "gate_up")] = np.concatenate(both, axis=1)
            if layout == "heads' matrices in one" and name.endswith("attn_k_b.weight"):
                keys, values = found.pop(name), found.pop(name.replace("k_b", "v_b"))
                found[name.replace("k_b", "kv_b")] = np.concatenate([keys.transpose(0, 2, 1), values], axis=1).reshape(-1, keys.shape[1])
        return found

    monkeypatch.setattr("tests.support.gguf_files.mixture_tensors", arranged)
    path = write_gguf_of(folder, tmp_path / "golden.gguf", architecture, metadata)
    with open_gguf(path) as ours, open_checkpoint(folder) as theirs:
        assert ours.config == theirs.config
        for name, (rows, *_) in tensor_shapes(theirs.config).items():
            assert np.array_equal(ours.read(name, rows // 3, rows), theirs.read(name, rows // 3, rows)), name


@pytest.mark.parametrize(("golden", "architecture"), [FLASH, GLM_4_5])
def test_layers_that_predict_further_tokens_are_left_out_and_named(tmp_path: Path, golden: str, architecture: str) -> None:
    with open_gguf(write_gguf_of(golden_folder(golden), tmp_path / "golden.gguf", architecture)) as checkpoint:
        layers = checkpoint.config.layers
        assert f"blk.{layers}.nextn.eh_proj.weight" in checkpoint.file.tensor_names
        assert checkpoint.provenance.notice == f"left out: 1 layer that would predict further tokens (blk.{layers})"


def test_older_files_do_not_say_how_experts_are_chosen(tmp_path: Path) -> None:
    with open_gguf(write_gguf_of(golden_folder(FLASH[0]), tmp_path / "golden.gguf", "deepseek2", NO_GATING)) as checkpoint:
        assert checkpoint.config.experts is not None


@pytest.mark.parametrize(
    ("metadata", "without", "says"),
    [
        ({"deepseek2.expert_gating_func": 1}, "", "not chosen by a sigmoid"),
        (NO_GATING, "blk.1.exp_probs_b.bias", "not chosen by a sigmoid"),
        ({}, "blk.1.exp_probs_b.bias", "no tensor blk.1.exp_probs_b.bias"),
        ({}, "blk.1.ffn_up_exps.weight", "no tensor blk.1.ffn_up_exps.weight"),
        ({"deepseek2.expert_count": 5}, "", r"ffn_gate_inp.weight has shape \[6, 40\], its metadata ask for \[5, 40\]"),
        ({"deepseek2.expert_count": None}, "", "it has no deepseek2.expert_count"),
        ({"deepseek2.expert_group_count": 4}, "", "6 experts are not 4 groups"),
        ({"deepseek2.expert_used_count": 7}, "", "expert_used_count must be a whole number from 1 to 6"),
        ({"deepseek2.attention.kv_lora_rank": None}, "", "it has no deepseek2.attention.kv_lora_rank"),
        ({"deepseek2.attention.key_length_mla": None}, "", "it has no deepseek2.attention.key_length_mla"),
        ({"deepseek2.attention.kv_lora_rank": 30}, "", "over a latent of 30, cannot be"),
        ({"deepseek2.attention.key_length_mla": 8}, "", "heads of 8, 8 of them rotated"),
        ({"deepseek2.rope.scaling.factor": 40.0}, "", "rope.scaling.factor is not supported"),
        ({"deepseek2.attention.q_lora_rank": None}, "", r"it has no tensor blk.0.attn_q.weight"),
        ({"deepseek2.nextn_predict_layers": None}, "", "it has no tensor blk.2.ffn_norm.weight|a tensor that its architecture has not"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_refusals(tmp_path: Path, metadata: dict[str, object], without: str, says: str) -> None:
    path = write_gguf_of(golden_folder(FLASH[0]), tmp_path / "bad.gguf", "deepseek2", metadata, frozenset({without}))
    with pytest.raises(InvalidInput, match=says), open_gguf(path):
        pytest.fail("opened")


def test_rows_of_a_tensor_of_three_axes_are_those_of_the_last(tmp_path: Path) -> None:
    """Also where they are stored in blocks."""
    values = np.random.default_rng(0).standard_normal((3, 5, 64)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    path = write_gguf(tmp_path / "tiny.gguf", extra={"blk.0.ffn_up_exps.weight": values}, types={"ffn_up_exps": kind})
    expected = gguf.dequantize(gguf.quantize(values, kind), kind).reshape(15, 64)
    with path.open("rb") as opened, open_gguf_file(opened, "tiny.gguf") as file:
        assert np.array_equal(file.read("blk.0.ffn_up_exps.weight", 4, 12), expected[4:12])
