"""Measuring a model: against its checkpoint, and against another framework's logits."""

from __future__ import annotations

import json
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from fleet.home import Home
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.checkpoint import tensor_shapes
from quantize.checkpoints.formats import open_checkpoint
from tests.support import oracle
from tests.support.blanks import GOLDEN, expected
from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.command import Command


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", TinyGlm(tied_head=True))


@pytest.fixture
def imported(glmfleet: Command, home: Home, checkpoint: Path) -> ArtifactStore:
    assert glmfleet("model", "import", checkpoint, "--name", "tiny", "--home", home.path)[0] == 0
    return ArtifactStore(home.artifacts)


def test_a_report_is_made_kept_shown_and_forgotten(glmfleet: Command, home: Home, imported: ArtifactStore) -> None:
    digest = imported.load("tiny").digest
    code, out, err = glmfleet("model", "eval", "tiny", "--tokens", 2048, "--json", "--home", home.path)
    assert code == 0, err
    made = json.loads(out)
    assert made["circumstances"]["tokens"] == 2048
    assert made["circumstances"]["text"].endswith("pydoc_data.topics")
    quality = made["quality"]
    assert 0 < quality["kl_divergence"]["low"] < quality["kl_divergence"]["value"] < quality["kl_divergence"]["high"] < 0.01
    assert quality["perplexity"]["value"] == pytest.approx(
        quality["reference_perplexity"]["value"] * (1 + quality["perplexity_change"]["value"])
    )
    assert 0.9 < quality["top1_agreement"]["value"] < 1
    assert [0 < layer["value"] < 0.03 for layer in made["layers"]] == [True] * 3
    assert made["reference"] is None
    # What is measured later is not the model's identity.
    assert imported.load("tiny").digest == digest
    assert json.loads(glmfleet("model", "show", "tiny", "--json", "--home", home.path)[1])["quality"] == made
    shown = glmfleet("model", "show", "tiny", "--home", home.path)[1]
    assert f"perplexity {quality['perplexity']['value']:.3f}" in shown
    plot = imported.records.plot(digest)
    assert plot is not None
    assert str(plot) in shown
    assert len(ElementTree.parse(plot).findall(".//{*}circle")) == 3
    assert not list(home.path.glob(".evaluation-*"))
    assert glmfleet("model", "rm", "tiny", "--home", home.path)[0] == 0
    assert not plot.exists()


def test_another_frameworks_logits(glmfleet: Command, home: Home, checkpoint: Path, imported: ArtifactStore, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sequences = [random.integers(0, 272, 40), random.integers(0, 272, 21)]
    with open_checkpoint(checkpoint) as source:
        weights = {name: source.read(name, 0, shape[0]) for name, shape in tensor_shapes(source.config).items()}
        weights.setdefault("head.weight", weights["embedding.weight"])
        logits = [oracle.run(source.config, weights, ids.tolist()).logits for ids in sequences]
    arrays = {f"ids_{number}": ids for number, ids in enumerate(sequences)} | {
        f"logits_{number}": rows for number, rows in enumerate(logits)
    }
    np.savez(tmp_path / "theirs.npz", **arrays)  # type: ignore[arg-type]
    code, out, err = glmfleet(
        "model", "eval", "tiny", "--tokens", 512, "--reference", tmp_path / "theirs.npz", "--json", "--home", home.path
    )
    assert code == 0, err
    reference = json.loads(out)["reference"]
    assert (reference["file"], reference["sequences"], reference["fp32"]["tokens"]) == ("theirs.npz", 2, 61)
    assert reference["fp32"]["max_abs"] < 1e-3
    assert reference["fp32"]["mean_abs"] < reference["fp32"]["max_abs"]
    assert reference["fp32"]["kl"] < 1e-6
    assert reference["fp32"]["top1_agreement"] == 1
    assert 1e-3 < reference["int8"]["max_abs"] < 1
    assert 1e-6 < reference["int8"]["kl"] < 0.01
    assert reference["int8"]["top1_agreement"] > 0.9
    (tmp_path / "bad.npz").write_text("x")
    code, out, err = glmfleet("model", "eval", "tiny", "--reference", tmp_path / "bad.npz", "--home", home.path)
    assert (code, out) == (1, "")
    assert err.splitlines()[0].startswith("error: bad.npz cannot be read: ")
    assert len(err.splitlines()) == 2


@pytest.mark.long
def test_a_model_that_fills_blanks(glmfleet: Command, home: Home, tmp_path: Path) -> None:
    """What follows a prefix is decoded, and the original code's own logits are met, prefix and all."""
    arrays = {f"ids_{k}": case.ids for k, case in enumerate(expected())} | {f"logits_{k}": case.logits for k, case in enumerate(expected())}
    np.savez(tmp_path / "original.npz", **arrays)  # type: ignore[arg-type]
    assert glmfleet("model", "import", GOLDEN, "--name", "blanks", "--home", home.path)[0] == 0
    asked = ["model", "eval", "blanks", "--tokens", 512, "--reference", tmp_path / "original.npz", "--json", "--home", home.path]
    code, out, err = glmfleet(*asked)
    assert code == 0, err
    made = json.loads(out)
    assert made["reference"]["fp32"]["max_abs"] < 1e-3
    assert made["reference"]["fp32"]["top1_agreement"] == 1
    assert 1e-3 < made["reference"]["int8"]["max_abs"] < 2
    assert made["reference"]["fp32"]["tokens"] == sum(len(case.ids) for case in expected())
    assert made["circumstances"]["text"].endswith("(of each window the second half)")
    assert 0 < made["quality"]["kl_divergence"]["value"] < 0.05
    np.savez(tmp_path / "other.npz", ids_0=np.arange(9), logits_0=np.zeros((9, expected()[0].logits.shape[1])))
    code, _, err = glmfleet("model", "eval", "blanks", "--reference", tmp_path / "other.npz", "--home", home.path)
    assert code == 1
    assert err.startswith("error: a sequence has no blank with one 501 behind it")


@pytest.mark.long
def test_an_import_measures_at_once_when_asked(glmfleet: Command, home: Home, checkpoint: Path) -> None:
    code, out, _ = glmfleet("model", "import", checkpoint, "--name", "tiny", "--eval", "--json", "--home", home.path)
    assert code == 0
    assert json.loads(out)["quality"]["circumstances"]["tokens"] == 2048


def test_a_checkpoint_that_is_gone_or_another(glmfleet: Command, home: Home, checkpoint: Path, imported: ArtifactStore) -> None:
    checkpoint.rename(checkpoint.with_name("elsewhere"))
    code, _, err = glmfleet("model", "eval", "tiny", "--home", home.path)
    assert code == 1
    assert err == f"error: the checkpoint of tiny is gone: {checkpoint}\n  put it back, or: glmfleet model import PATH --name tiny\n"
    write_checkpoint(checkpoint, TinyGlm(layers=2))
    code, _, err = glmfleet("model", "eval", "tiny", "--home", home.path)
    assert code == 1
    assert "holds another model than tiny was made of" in err
    shutil.rmtree(imported.records.folder)
    code, _, err = glmfleet("model", "eval", "tiny", "--home", home.path)
    assert code == 1
    assert err.startswith("error: it is not recorded which checkpoint tiny was made of\n")


def test_a_machine_without_the_engine_says_what_to_install(
    glmfleet: Command, home: Home, imported: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "fleet.cli.evaluation", raising=False)
    for module in ("device.engine.session", "device.engine.stage", "fleet.cli.versions", "onnxruntime"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = glmfleet("model", "eval", "tiny", "--home", home.path)
    assert (code, err) == (
        1,
        "error: measuring runs the model here, and onnxruntime is not installed\n  pip install 'glmfleet[device]'\n",
    )


@pytest.mark.parametrize("content", [b"", b"x", b"\xff\xfe\xfd"])
def test_a_text_that_says_nothing(glmfleet: Command, home: Home, imported: ArtifactStore, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text").write_bytes(content)
    code, _, err = glmfleet("model", "eval", "tiny", "--text", tmp_path / "text", "--home", home.path)
    assert code == 1
    assert len(err.splitlines()) == 2
