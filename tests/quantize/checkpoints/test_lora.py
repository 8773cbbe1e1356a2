"""LoRA adapters: what PEFT merges (tests/goldens/make_lora.py) is what an import reads; nothing of an adapter is left out in silence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from protos.errors import InvalidInput
from quantize.checkpoints.checkpoint import Checkpoint, tensor_shapes
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.huggingface import open_huggingface
from quantize.checkpoints.lora_settings import parse_lora
from tests.support.checkpoints import Arrays, tokenizer_json, write_json
from tests.support.torch_files import write_torch_file

LORA = Path(__file__).parents[2] / "goldens" / "lora"
NAMES = sorted(path.parent.name for path in LORA.glob("*/merged.safetensors"))
PREFIX = "base_model.model."


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(LORA / "base", tmp_path / "base"))
    write_json(folder / "tokenizer.json", tokenizer_json())
    return folder


def adapter_of(name: str, folder: Path) -> Path:
    """A copy that can be edited."""
    folder.mkdir(exist_ok=True)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(LORA / name / file, folder / file)
    return folder


def as_float(tensors: Arrays) -> Arrays:
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def expected(name: str) -> Arrays:
    return as_float(load_file(LORA / "base" / "model.safetensors")) | load_file(LORA / name / "merged.safetensors")


def found(checkpoint: Checkpoint) -> Arrays:
    """By the files' names, each read in two pieces."""
    read: Arrays = {}
    for neutral in tensor_shapes(checkpoint.config):
        start = 0
        for source in checkpoint.sources[neutral]:  # type: ignore[attr-defined]
            rows = source.shape[0]
            middle = start + rows // 3
            read[source.name] = np.concatenate([checkpoint.read(neutral, start, middle), checkpoint.read(neutral, middle, start + rows)])
            start += rows
    return read


def check_same(ours: Arrays, theirs: Arrays) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert np.abs(ours[name] - values).max() < 1e-6, name


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_in_a_folder_of_its_own(base: Path, name: str) -> None:
    with open_checkpoint(base, LORA / name) as checkpoint:
        check_same(found(checkpoint), expected(name))
        assert checkpoint.provenance.source == "Hugging Face checkpoint with a LoRA adapter"
    with open_checkpoint(base) as checkpoint:
        check_same(found(checkpoint), as_float(load_file(base / "model.safetensors")))


@pytest.mark.parametrize("name", ["plain", "saved-modules"])
def test_an_adapter_beside_its_base(base: Path, name: str) -> None:
    """As transformers has it: it is part of what the folder says."""
    adapter_of(name, base)
    with open_checkpoint(base) as checkpoint:
        check_same(found(checkpoint), expected(name))
    with pytest.raises(InvalidInput, match="has a LoRA adapter of its own"), open_checkpoint(base, LORA / "plain"):
        pytest.fail("opened")


def test_an_adapter_that_was_pickled(base: Path, tmp_path: Path) -> None:
    adapter = adapter_of("plain", tmp_path / "adapter")
    write_torch_file(adapter / "adapter_model.bin", load_file(adapter / "adapter_model.safetensors"))
    (adapter / "adapter_model.safetensors").unlink()
    with open_checkpoint(base, adapter) as checkpoint:
        check_same(found(checkpoint), expected("plain"))


@pytest.mark.parametrize("prefix", [PREFIX, ""])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_peft_saved_under_its_own_names(base: Path, name: str, prefix: str) -> None:
    """torch's state_dict of a PeftModel, or of the model in it: the base and the adapter in one, each with PEFT's names."""
    targets = {re.split(r"\.lora_", key)[0] for key in load_file(LORA / name / "adapter_model.safetensors")}
    stored: Arrays = {}
    for key, values in load_file(base / "model.safetensors").items():
        module, _, kind = f"{PREFIX}{key}".rpartition(".")
        stored[f"{module}.base_layer.{kind}" if module in targets else f"{module}.{kind}"] = values
    for key, values in load_file(LORA / name / "adapter_model.safetensors").items():
        if ".lora_" in key:
            named = re.sub(r"\.weight$", ".default.weight", key) if key.endswith(".weight") else f"{key}.default"
            stored[named] = values
        elif ".base_layer." not in key and not key.endswith(".bias"):
            module, _, kind = key.rpartition(".")
            stored[f"{module}.modules_to_save.default.{kind}"] = values
            stored[f"{module}.original_module.{kind}"] = stored.pop(key)
        else:
            stored[key] = values
    save_file({prefix + key.removeprefix(PREFIX): values for key, values in stored.items()}, base / "model.safetensors")
    with pytest.raises(InvalidInput, match=r"no adapter_config\.json says how much"), open_checkpoint(base):
        pytest.fail("opened")
    shutil.copy(LORA / name / "adapter_config.json", base)
    with open_checkpoint(base) as checkpoint:
        check_same(found(checkpoint), expected(name))
    shutil.copy(LORA / name / "adapter_model.safetensors", base)
    with pytest.raises(InvalidInput, match="has a LoRA adapter of its own beside another"), open_checkpoint(base):
        pytest.fail("opened")


def test_a_prefix_without_an_adapter_is_taken_off(base: Path) -> None:
    plain = load_file(base / "model.safetensors")
    save_file({f"{PREFIX}{name}": values for name, values in plain.items()}, base / "model.safetensors")
    with open_checkpoint(base) as checkpoint:
        check_same(found(checkpoint), as_float(plain))
        assert checkpoint.provenance.source == "Hugging Face checkpoint"


def test_an_adapter_alone_says_whose_it_is(tmp_path: Path) -> None:
    adapter = adapter_of("plain", tmp_path / "adapter")
    with pytest.raises(InvalidInput, match="is a LoRA adapter for someone/base, and no model") as caught, open_checkpoint(adapter):
        pytest.fail("opened")
    assert "--adapter" in caught.value.advice


def test_what_is_no_adapter_and_what_is_no_folder(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has no adapter_config\.json"), open_checkpoint(base, base):
        pytest.fail("opened")
    with pytest.raises(InvalidInput, match="is no Hugging Face folder"), open_checkpoint(tmp_path / "x.gguf", LORA / "plain"):
        pytest.fail("opened")


def test_an_adapters_own_tokenizer_is_the_models(base: Path, tmp_path: Path) -> None:
    adapter = adapter_of("plain", tmp_path / "adapter")
    (base / "chat_template.jinja").write_text("base")
    (base / "LICENSE").write_text("licence")
    (adapter / "chat_template.jinja").write_text("alone: not a tokenizer's")
    with open_huggingface(base, adapter) as checkpoint:
        assert checkpoint.text_files["chat_template.jinja"] == b"base"
    write_json(adapter / "tokenizer.json", tokenizer_json())
    (adapter / "chat_template.jinja").write_text("trained with")
    with open_huggingface(base, adapter) as checkpoint:
        assert checkpoint.text_files["chat_template.jinja"] == b"trained with"
        assert checkpoint.text_files["LICENSE"] == b"licence"


def test_a_tied_embedding_is_not_changed_for_the_head_alone(base: Path) -> None:
    """PEFT leaves the head as it was."""
    config = json.loads((base / "config.json").read_text())
    write_json(base / "config.json", {**config, "tie_word_embeddings": True})
    tensors = load_file(base / "model.safetensors")
    save_file({name: values for name, values in tensors.items() if name != "lm_head.weight"}, base / "model.safetensors")
    with open_checkpoint(base, LORA / "plain") as checkpoint:
        assert checkpoint.config.tied_head
    with open_checkpoint(base, LORA / "saved-modules") as checkpoint:  # it brings a head
        assert not checkpoint.config.tied_head
    tensors = {
        name: values for name, values in load_file(LORA / "embedding-and-head" / "adapter_model.safetensors").items() if "embed" in name
    }
    adapter = adapter_of("embedding-and-head", base.parent / "adapter")
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(InvalidInput, match="an embedding that is the output head too"), open_checkpoint(base, adapter):
        pytest.fail("opened")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"peft_type": "IA3"}, "type 'IA3'"),
        ({"use_qalora": True}, "use_qalora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying"),
        ({"something_of_next_year": {"a": 1}}, "something_of_next_year"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4' changes the base"),
        ({"init_lora_weights": "OLoRA"}, "changes the base"),
        ({"bias": "some"}, "bias 'some'"),
        ({"r": 0}, "r must be"),
        ({"r": 4.5}, "r must be"),
        ({"lora_alpha": "8"}, "lora_alpha must be"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern must be"),
        ({"rank_pattern": {"q_proj": 2.5}}, "no whole number"),
        ({"rank_pattern": {"(": 2}}, "is no pattern"),
        ({"alpha_pattern": {"(a*)*b": 2}}, "too general"),
        ({"alpha_pattern": {".*.*.*.*x": 2}}, "too general"),
        ({"alpha_pattern": {"a{99999999999999999999}": 2}}, "is no pattern"),
        ({"alpha_pattern": {"(" * 3000: 2}}, "too general"),
        ({"alpha_pattern": {"(a|a)" * 39 + "b": 2}}, "too general"),
        ({"lora_alpha": 10**400}, "lora_alpha must be"),
    ],
    ids=str,
)
def test_what_is_not_plain_lora_is_refused_by_name(base: Path, tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    adapter = adapter_of("plain", tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    write_json(adapter / "adapter_config.json", {**config, **settings})
    with pytest.raises(InvalidInput, match=rf"adapter_config\.json: .*{says}") as caught, open_checkpoint(base, adapter):
        pytest.fail("opened")
    assert caught.value.advice


def test_other_settings_of_a_training_do_not_matter() -> None:
    settings = {"peft_type": "LORA", "init_lora_weights": "gaussian", "lora_dropout": 0.1, "eva_config": {"rho": 2}, "fan_in_fan_out": True}
    assert parse_lora({**settings, "r": 16, "lora_alpha": 32}).scale_of("model.layers.0.self_attn.q_proj") == 2


def _rename(old: str, new: str) -> Callable[[Arrays], Arrays]:
    return lambda tensors: {name.replace(old, new): values for name, values in tensors.items()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: {}, "the adapter has no tensors"),
        (_rename("q_proj", "query"), r"changes model\.layers\.0\.self_attn\.query\.weight, which the checkpoint has not"),
        (_rename("layers.1", "layers.7"), r"changes model\.layers\.7\."),
        (
            lambda tensors: {name: values for name, values in tensors.items() if "1.self_attn.v_proj.lora_B" not in name},
            "not both matrices of",
        ),
        (lambda tensors: {name: values[:, :-1] if "lora_A" in name else values for name, values in tensors.items()}, "rank 4 and the"),
        (lambda tensors: {name: values[:3] if "lora_A" in name else values for name, values in tensors.items()}, "rank 4 and the"),
        (lambda tensors: {**tensors, f"{PREFIX}model.layers.0.self_attn.q_proj.lora_magnitude_vector": np.ones(32)}, "magnitudes of"),
        (lambda tensors: {**tensors, f"{PREFIX}model.layers.0.self_attn.q_proj.lora_B.bias": np.ones(32)}, "plain LoRA has not"),
        (lambda tensors: {**tensors, f"{PREFIX}score.weight": np.ones((2, 16))}, r"has not: score\.weight"),
        (lambda tensors: {name: values.astype(np.int32) for name, values in tensors.items()}, "is stored as I32"),
        (
            lambda tensors: {**tensors, **{name.replace(".weight", ".other.weight"): values for name, values in tensors.items()}},
            "several adapters: None, other",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(base: Path, tmp_path: Path, change: Callable[[Arrays], Arrays], says: str) -> None:
    adapter = adapter_of("plain", tmp_path / "adapter")
    tensors = change(load_file(adapter / "adapter_model.safetensors"))
    write = {
        name: np.ascontiguousarray(values, dtype=np.float32 if values.dtype == np.float64 else values.dtype)
        for name, values in tensors.items()
    }
    save_file(write, adapter / "adapter_model.safetensors")
    with pytest.raises(InvalidInput, match=says), open_checkpoint(base, adapter):
        pytest.fail("opened")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("plain", lambda tensors: tensors),
        (
            "weight-decomposed",
            lambda tensors: {name: each for name, each in tensors.items() if "1.self_attn.q_proj.lora_m" not in name},
        ),
        ("weight-decomposed", lambda tensors: {name: values[:-1] if "magnitude" in name else values for name, values in tensors.items()}),
        ("embedding-and-head", lambda tensors: {**tensors, f"{PREFIX}model.embed_tokens.lora_magnitude_vector": np.ones(272, np.float32)}),
    ],
)
def test_magnitudes_that_are_missing_or_too_many_are_refused(
    base: Path, tmp_path: Path, name: str, change: Callable[[Arrays], Arrays]
) -> None:
    adapter = adapter_of(name, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    write_json(adapter / "adapter_config.json", {**config, "use_dora": True})
    save_file(change(load_file(adapter / "adapter_model.safetensors")), adapter / "adapter_model.safetensors")
    with pytest.raises(InvalidInput, match=r"magnitudes of .* are not what DoRA"), open_checkpoint(base, adapter):
        pytest.fail("opened")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "matrix"), [("plain", "lora_A"), ("plain", "lora_B"), ("weight-decomposed", "lora_magnitude_vector")])
def test_numbers_that_are_none_are_refused_by_name(base: Path, tmp_path: Path, name: str, matrix: str, value: float) -> None:
    adapter = adapter_of(name, tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    spoilt = next(key for key in sorted(tensors) if matrix in key)
    tensors[spoilt].reshape(-1)[-1] = value
    save_file(tensors, adapter / "adapter_model.safetensors")
    module = spoilt.removeprefix(PREFIX).partition(f".{matrix}")[0]
    with open_checkpoint(base, adapter) as checkpoint, pytest.raises(InvalidInput, match=f"matrices of {module} hold a value") as refused:
        found(checkpoint)
    assert "adapter_model.safetensors" in refused.value.detail
    assert refused.value.advice


def test_a_sum_that_no_weight_can_be_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    adapter = adapter_of("plain", tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: np.full_like(values, 3e38) for name, values in as_float(tensors).items()}, adapter / "adapter_model.safetensors")
    with open_checkpoint(base, adapter) as checkpoint, pytest.raises(InvalidInput, match="not finite once the adapter is merged"):
        found(checkpoint)


def test_missing_weights_are_named(base: Path, tmp_path: Path) -> None:
    adapter = adapter_of("plain", tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"adapter_model\.safetensors"), open_checkpoint(base, adapter):
        pytest.fail("opened")
