"""What a checkpoint's maker says of sampling: used, or named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos.manifest import SamplingDefaults
from protos.sampling import PARAMETERS, Sampling
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.sampling_defaults import of_generation_config, of_gguf
from quantize.importing.importer import import_model
from tests.support.checkpoints import write_checkpoint, write_json
from tests.support.gguf_files import write_gguf

GLM = {"do_sample": True, "temperature": 0.8, "top_p": 0.8, "max_length": 128000, "eos_token_id": [1]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (GLM, {"temperature": 0.8, "top_p": 0.8}),
        ({"temperature": 0.6, "top_k": 20, "min_p": 0.05}, {"temperature": 0.6, "top_k": 20, "min_p": 0.05}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"top_p": 0.95}, {"temperature": 1.0, "top_p": 0.95}),
        ({"do_sample": False, "temperature": 0.8, "top_p": 0.8}, {"temperature": 0.0}),
        ({"temperature": 0.0, "top_k": -1}, {"temperature": 0.0, "top_k": 0}),
        ({"top_k": 0, "top_p": 1.0, "min_p": 0, "repetition_penalty": 1.0, "typical_p": 1}, {}),
        ({"do_sample": None, "temperature": None, "top_p": None}, {}),
        ({"eos_token_id": 1, "_from_model_config": True}, {}),
        ({}, {}),
    ],
)
def test_the_makers_word_is_read(values: dict[str, Any], said: dict[str, float]) -> None:
    found = of_generation_config(values)
    assert (found.defaults.said, found.unused) == (said, ())


@pytest.mark.parametrize(
    ("values", "unused"),
    [
        ({"num_beams": 4, "no_repeat_ngram_size": 3, "num_beam_groups": 1}, ("num_beams 4", "no_repeat_ngram_size 3")),
        ({"do_sample": False, "suppress_tokens": [1, 2]}, ("suppress_tokens [1, 2]",)),
        ({"temperature": "warm", "top_p": 1.5, "top_k": 2.5}, ("temperature 'warm'", "top_k 2.5", "top_p 1.5")),
        ({"temperature": False, "top_p": float("nan"), "top_k": 10**400}, ("temperature False", "top_k 1" + "0" * 39, "top_p nan")),
        ({"top_p": 0, "min_p": -0.1}, ("top_p 0", "min_p -0.1")),
    ],
)
def test_what_does_not_come_to_pass_is_named(values: dict[str, Any], unused: tuple[str, ...]) -> None:
    found = of_generation_config(values)
    assert found.unused == unused
    assert set(found.defaults.said) <= {"temperature"}


@pytest.mark.parametrize("name", ["repetition_penalty", "typical_p"])
def test_a_parameter_that_the_sampler_may_not_have_is_used_or_named(name: str) -> None:
    found = of_generation_config({"temperature": 0.7, name: 0.9})
    assert found.defaults.said == {"temperature": 0.7, **({name: 0.9} if name in PARAMETERS else {})}
    assert found.unused == (() if name in PARAMETERS else (f"{name} 0.9",))
    assert of_generation_config({name: 1.0}).unused == ()


def test_a_gguf_file_s_word_is_read() -> None:
    said = {"temp": 0.699999988079071, "top_k": 40, "top_p": 0.949999988079071, "min_p": 0.0, "penalty_repeat": 1.0, "mirostat": 0}
    assert of_gguf(said).defaults == SamplingDefaults(temperature=0.7, top_k=40, top_p=0.95)
    assert of_gguf(said).unused == ()
    found = of_gguf({"penalty_repeat": 1.5, "penalty_last_n": 64, "xtc_probability": 0.5, "sequence": "k;p;t"})
    assert (found.defaults, found.unused) == (SamplingDefaults(), ("xtc_probability 0.5", "sequence 'k;p;t'", "penalty_repeat 1.5"))
    assert ("repetition_penalty" in PARAMETERS) == (of_gguf({"penalty_repeat": 1.5, "penalty_last_n": -1}).unused == ())


values = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "0.8", "nan"]) | st.lists(st.integers(), max_size=2)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["do_sample", "num_beams", *PARAMETERS]), values))
def test_whatever_is_said_makes_sampling_that_is_within_bounds(said: dict[str, Any]) -> None:
    Sampling(**of_generation_config(said).defaults.said).check()


def test_it_is_in_the_manifest_of_either_form(tmp_path: Path) -> None:
    folder, store = write_checkpoint(tmp_path / "glm"), ArtifactStore(tmp_path / "store")
    with open_checkpoint(folder) as checkpoint:
        before = import_model(checkpoint, store, "before")
    assert (before.sampling.said, b"sampling" in before.to_bytes()) == ({}, False)
    write_json(folder / "generation_config.json", {**GLM, "eos_token_id": list(before.config.eos_token_ids), "num_beams": 2})
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.sampling.unused == ("num_beams 2",)
        after = import_model(checkpoint, store, "after")
    assert after.sampling == SamplingDefaults(temperature=0.8, top_p=0.8)
    assert (store.load("after"), after.blobs()) == (after, before.blobs())
    metadata = {"general.sampling.temp": 0.25, "general.sampling.top_k": 7}
    with open_checkpoint(write_gguf(tmp_path / "glm.gguf", metadata=metadata)) as checkpoint:
        assert import_model(checkpoint, store, "gguf").sampling == SamplingDefaults(temperature=0.25, top_k=7)
