from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fleet.deploying.views import DeploymentView
from fleet.home import Home
from quantize.artifact.store import ArtifactStore
from tests.support.checkpoints import TinyGlm, random_tensors, tokenizer_json, write_checkpoint, write_json, write_tensors
from tests.support.command import Command
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.fake_hub import FakeHub, serving_hub
from tests.support.gguf_files import write_gguf


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def test_import_list_show_rm(glmfleet: Command, home: Home, checkpoint: Path) -> None:
    code, out, err = glmfleet("model", "import", checkpoint, "--name", "mine", "--home", home.path)
    assert (code, out) == (0, "")
    assert "quantize to int8: 100 %" in err
    (listed,) = json.loads(glmfleet("model", "list", "--json", "--home", home.path)[1])
    shown = json.loads(glmfleet("model", "show", "mine", "--json", "--home", home.path)[1])
    assert shown == {**listed, "quality": None}
    assert (shown["name"], shown["layers"], shown["bits"]) == ("mine", 3, 8)
    assert glmfleet("model", "list", "--home", home.path)[1].splitlines()[1].split()[0] == "mine"
    assert "GlmForCausalLM, 3 layers" in glmfleet("model", "show", "mine", "--home", home.path)[1]
    code, _, err = glmfleet("model", "rm", "mine", "--home", home.path)
    assert code == 0
    assert err.startswith("mine removed, ")
    assert not list((home.artifacts / "blobs" / "sha256").iterdir())


def test_an_import_tells_of_a_chat_template_that_is_none(glmfleet: Command, home: Home, checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").write_text("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}")
    assert "raw prompts" not in glmfleet("model", "import", checkpoint, "--name", "fine", "--home", home.path)[2]
    (checkpoint / "chat_template.jinja").write_text("{% for m in messages %}")
    code, _, err = glmfleet("model", "import", checkpoint, "--name", "mute", "--home", home.path)
    assert code == 0
    (told,) = [line for line in err.splitlines() if "raw prompts" in line]
    assert told.startswith("mute can be given raw prompts only: the model's chat template is no template: Unexpected end of template")
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_bytes())
    (checkpoint / "tokenizer.json").write_text(json.dumps({**tokenizer, "decoder": {"type": "XYZ"}}))
    assert (
        "numb can be given token ids only: the model's tokenizer.json"
        in glmfleet("model", "import", checkpoint, "--name", "numb", "--home", home.path)[2]
    )


def test_how_its_maker_samples_a_model_is_shown_and_what_is_not_used_is_said(glmfleet: Command, home: Home, checkpoint: Path) -> None:
    generation = json.loads((checkpoint / "generation_config.json").read_text())
    said = {"do_sample": True, "temperature": 0.8, "top_p": 0.8, "num_beams": 4}
    (checkpoint / "generation_config.json").write_text(json.dumps({**generation, **said}))
    code, _, err = glmfleet("model", "import", checkpoint, "--name", "mine", "--home", home.path)
    assert code == 0
    assert "not used of how mine is to be sampled: num_beams 4\n" in err
    assert json.loads(glmfleet("model", "show", "mine", "--json", "--home", home.path)[1])["sampling"] == {"temperature": 0.8, "top_p": 0.8}
    assert "sampling     temperature 0.8, top_p 0.8\n" in glmfleet("model", "show", "mine", "--home", home.path)[1]


def test_pull_from_a_hub(glmfleet: Command, home: Home, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n")
    with serving_hub(FakeHub({"zai-org/GLM-Tiny": checkpoint})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        code, out, err = glmfleet("model", "pull", "zai-org/GLM-Tiny", "--home", home.path)
        assert (code, out) == (0, "")
        assert "download: 100 %" in err
        assert err.splitlines()[-1].startswith("glm-tiny: ")
        assert err.splitlines()[-1].endswith("; MIT")
        shown = json.loads(glmfleet("model", "show", "glm-tiny", "--json", "--home", home.path)[1])
        assert shown["source"] == "Hugging Face checkpoint zai-org/GLM-Tiny@0123456789ab"
        code, out, err = glmfleet("model", "pull", "zai-org/none", "--home", home.path)
        assert (code, out) == (1, "")
        assert err.splitlines() == [
            f"error: {hub.url} has no model zai-org/none, or not for you",
            "  check the spelling (ORG/NAME); for a private model set HF_TOKEN",
        ]
        assert glmfleet("model", "pull", "smollm2-135m", "--revision", "main", "--home", home.path)[0] == 2


def test_weights_are_rotated_unless_told_otherwise(glmfleet: Command, home: Home, checkpoint: Path) -> None:
    assert glmfleet("model", "import", checkpoint, "--name", "turned", "--home", home.path)[0] == 0
    assert glmfleet("model", "import", checkpoint, "--name", "plain", "--no-rotate", "--home", home.path)[0] == 0
    store = ArtifactStore(home.artifacts)
    assert [store.load(name).quantization.rotated for name in ("turned", "plain")] == [True, False]


def test_weights_of_4_bits_take_half_the_bytes(glmfleet: Command, home: Home, checkpoint: Path) -> None:
    assert glmfleet("model", "import", checkpoint, "--name", "full", "--home", home.path)[0] == 0
    code, _, err = glmfleet("model", "import", checkpoint, "--name", "half", "--bits", 4, "--asymmetric", "--home", home.path)
    assert code == 0
    assert "quantize to int4: 100 %" in err
    store = ArtifactStore(home.artifacts)
    full, half = (store.load(name).part("layers.0").cost for name in ("full", "half"))
    assert half.weight_bytes < 0.7 * full.weight_bytes
    assert half.macs == full.macs
    shown = json.loads(glmfleet("model", "show", "half", "--json", "--home", home.path)[1])
    assert (shown["bits"], shown["block_size"]) == (4, 32)
    assert glmfleet("model", "show", "half", "--verify", "--home", home.path)[0] == 0
    code, _, err = glmfleet("model", "import", checkpoint, "--name", "x", "--bits", 5, "--home", home.path)
    assert (code, err) == (1, "error: weights of 5 bits are not supported\n  choose 4 or 8\n")


def test_an_empty_list_says_what_to_do(glmfleet: Command, home: Home) -> None:
    assert glmfleet("model", "list", "--home", home.path) == (0, "", "no models yet; get one: glmfleet model pull smollm2-135m\n")


def test_an_adapter_is_merged_and_remembered(glmfleet: Command, home: Home, tmp_path: Path) -> None:
    lora = Path(__file__).parents[2] / "goldens" / "lora"
    base = Path(shutil.copytree(lora / "base", tmp_path / "base"))
    adapter = Path(shutil.copytree(lora / "patterns", tmp_path / "adapter"))
    write_json(base / "tokenizer.json", tokenizer_json())
    assert glmfleet("model", "import", base, "--name", "base", "--home", home.path)[0] == 0
    code, _, err = glmfleet("model", "import", base, "--name", "adapted", "--adapter", adapter, "--home", home.path)
    assert (code, "adapted:" in err) == (0, True)
    store = ArtifactStore(home.artifacts)
    before, after = store.load("base"), store.load("adapted")
    assert before.part("embedding") == after.part("embedding")
    assert before.part("layers.0") != after.part("layers.0")
    assert after.provenance.source == "Hugging Face checkpoint with a LoRA adapter"
    # What it is measured against has the adapter too.
    code, out, _ = glmfleet("model", "eval", "adapted", "--tokens", 32, "--json", "--home", home.path)
    assert code == 0
    assert all(layer["value"] < 0.1 for layer in json.loads(out)["layers"])
    adapter.rename(tmp_path / "elsewhere")
    code, _, err = glmfleet("model", "eval", "adapted", "--tokens", 32, "--home", home.path)
    assert (code, "the adapter of adapted is gone" in err) == (1, True)


@pytest.mark.parametrize("command", [["show", "moon"], ["rm", "moon"], ["pull", "moon"], ["import", "/nowhere", "--name", "x"]])
def test_mistakes_are_two_lines(glmfleet: Command, home: Home, command: list[str]) -> None:
    code, out, err = glmfleet("model", *command, "--home", home.path)
    assert (code, out) == (1, "")
    first, second = err.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("  ")


@pytest.mark.parametrize("what", ["cut short", "no number", "gguf"])
def test_a_bad_checkpoint_is_two_lines_and_leaves_nothing(glmfleet: Command, home: Home, checkpoint: Path, what: str) -> None:
    weights = checkpoint / "model.safetensors"
    if what == "no number":  # found when most has been written
        tensors = random_tensors(TinyGlm())
        tensors["model.layers.2.mlp.down_proj.weight"][5, 5] = np.nan
        write_tensors(checkpoint, tensors)
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    path = checkpoint
    if what == "gguf":
        path = write_gguf(checkpoint / "x.gguf", metadata={"general.architecture": "mamba"})
    code, out, err = glmfleet("model", "import", path, "--name", "bad", "--home", home.path)
    assert (code, out) == (1, "")
    first, second = [line for line in err.splitlines() if not line.startswith("quantize")]
    assert first.startswith("error: ")
    assert second.startswith("  ")
    assert not [file for file in home.path.rglob("*") if file.is_file() and not file.name.endswith("lock")]


def test_a_damaged_model_does_not_hide_the_others(glmfleet: Command, home: Home, checkpoint: Path) -> None:
    for name in ("good", "bad"):
        glmfleet("model", "import", checkpoint, "--name", name, "--home", home.path)
    (home.artifacts / "models" / "bad.json").write_text("{")
    code, out, err = glmfleet("model", "list", "--json", "--home", home.path)
    assert code == 0
    assert [model["name"] for model in json.loads(out)] == ["good"]
    assert err.startswith("damaged: model bad: ")
    code, _, err = glmfleet("model", "rm", "bad", "--home", home.path)
    assert (code, err.startswith("bad removed")) == (0, True)


def test_verifying_a_model_names_the_part_that_changed(glmfleet: Command, home: Home, checkpoint: Path) -> None:
    glmfleet("model", "import", checkpoint, "--name", "tiny", "--home", home.path)
    assert glmfleet("model", "show", "tiny", "--verify", "--home", home.path)[0] == 0
    blob = max((home.artifacts / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)
    code, out, err = glmfleet("model", "show", "tiny", "--verify", "--home", home.path)
    assert (code, out) == (1, "")
    assert "error: model tiny: " in err
    assert "is not what its digest says" in err


def test_a_block_size_that_cannot_be_is_refused_before_anything_is_fetched(glmfleet: Command, home: Home) -> None:
    code, _, err = glmfleet("model", "pull", "smollm2-135m", "--block-size", 48, "--home", home.path)
    assert (code, err) == (1, "error: block size 48 is not supported\n  choose one of 32, 64, 128\n")
    assert not home.downloads.exists()


def test_a_model_in_use_is_not_removed(glmfleet: Command, served: Home, coordinator: FakeCoordinator, checkpoint: Path) -> None:
    glmfleet("model", "import", checkpoint, "--name", "tiny", "--home", served.path)
    code, _, err = glmfleet("model", "rm", "tiny", "--home", served.path)
    assert code == 1
    assert err == "error: tiny is deployed as tiny\n  first: glmfleet undeploy tiny\n"
    coordinator.deployed = [DeploymentView("old", "", "", "unreadable", "do this", (), 0, 0, 1)]
    code, _, err = glmfleet("model", "rm", "tiny", "--home", served.path)
    assert (code, err.splitlines()[0]) == (1, "error: deployment old cannot be read, and may be of tiny")
    assert json.loads(glmfleet("model", "list", "--json", "--home", served.path)[1])
