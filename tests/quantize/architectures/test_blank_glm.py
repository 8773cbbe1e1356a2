"""The original GLM against its own code's logits: the fp32 graphs exactly, the int8 artifact within its rounding."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

from protos.errors import InvalidInput
from protos.manifest import Manifest
from quantize.artifact.graph import build_stage_graph
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.huggingface import open_huggingface
from tests.quantize.stages import Pipeline
from tests.support.blanks import GOLDEN, Expected, blank_model, expected
from tests.support.torch_files import write_torch_file

Artifact = tuple[Manifest, ArtifactStore]


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return blank_model(tmp_path_factory.mktemp("float32"), bits=32)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return blank_model(tmp_path_factory.mktemp("int8"))


def logits(artifact: Artifact, case: Expected, cuts: tuple[int, ...] = (), level: int = 4) -> npt.NDArray[np.float32]:
    """The prefix in one run, the rest row by row."""
    manifest, store = artifact
    model = Pipeline(manifest, store.blob_folder, cuts=cuts, level=4, capacity=136)
    edges = [0, *range(case.prefix, len(case.ids) + 1)]
    runs = [
        model.step(case.ids[None, start:stop], [start], case.positions[None, start:stop])[0] for start, stop in itertools.pairwise(edges)
    ]
    return np.concatenate(runs)


@pytest.mark.parametrize("number", range(5))
def test_fp32_graphs_compute_what_the_original_code_does(float32: Artifact, number: int) -> None:
    case = expected()[number]
    found = logits(float32, case)
    assert np.abs(found - case.logits).max() < 1e-3
    assert found[case.prefix :].argmax(axis=-1).tolist() == case.greedy


def test_a_cut_changes_nothing(int8: Artifact) -> None:
    case = expected()[1]
    whole = logits(int8, case)
    for cuts in ((1,), (2, 3), (1, 2, 3)):
        assert np.array_equal(logits(int8, case, cuts), whole)


def test_int8_is_near(int8: Artifact) -> None:
    found = np.concatenate([logits(int8, case)[case.prefix :] for case in expected()])
    reference = np.concatenate([case.logits[case.prefix :] for case in expected()])
    margins = np.concatenate([case.margins for case in expected()])
    error = np.sqrt(np.mean((found - reference) ** 2))
    odds = [np.exp(rows - rows.max(axis=-1, keepdims=True)) for rows in (reference, found)]
    true, ours = (rows / rows.sum(axis=-1, keepdims=True) for rows in odds)
    kl = float(np.mean(np.sum(true * np.log(true / ours), axis=-1)))
    sure = margins > 4 * error
    assert error < 0.2
    assert kl < 0.02
    assert sure.sum() > 40
    assert (found.argmax(axis=-1) == reference.argmax(axis=-1))[sure].all()


def test_an_int8_cache_is_refused(int8: Artifact) -> None:
    with pytest.raises(InvalidInput, match="int8 KV cache"):
        build_stage_graph(int8[0], ["layers.0"], kv_dtype="int8")


def test_the_config_says_what_the_scheduler_needs() -> None:
    with open_huggingface(GOLDEN) as checkpoint:
        config = checkpoint.config
    assert config.prefix_whole
    assert (config.learned_positions, config.max_positions, config.tied_head) == (129, 129, True)
    assert (config.start_token_id, config.mask_token_ids, config.eos_token_ids) == (501, (504, 508, 507), (502, 500))


def test_gpt2_files_make_the_models_tokenizer() -> None:
    """[CLS] text <|endoftext|>; a mask takes the white space on its left."""
    with open_huggingface(GOLDEN) as checkpoint:
        tokenizer = Tokenizer.from_buffer(checkpoint.text_files["tokenizer.json"])
    plain = tokenizer.encode("the cat", add_special_tokens=False).ids
    assert tokenizer.encode("the cat [gMASK]").ids == [503, *plain, 507, 500]
    assert tokenizer.encode("the cat \n [MASK]").ids == [503, *plain, 504, 500]
    text = "Line one.\n\n  Two, with digits 123 and é."
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    for case in expected()[:3]:  # text of the goldens comes back to its own ids
        ids = [int(number) for number in case.ids[1 : case.prefix] if number < 500]
        assert tokenizer.decode(tokenizer.encode(tokenizer.decode(ids)).ids) == tokenizer.decode(ids)


def test_names_with_a_prefix_and_further_heads_are_read(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    with open_huggingface(GOLDEN) as plain:
        stored = [tensor for parts in plain.sources.values() for tensor in parts]
        tensors = {f"glm.{tensor.name}": plain.files.read(tensor.name, 0, tensor.shape[0]) for tensor in stored}
        write_torch_file(tmp_path / "pytorch_model.bin", {**tensors, "glm.pool.weight": np.zeros((2, 2), np.float32)})
        with open_huggingface(tmp_path) as prefixed:
            for name in ("embedding.positions", "layers.2.qkv.bias", "layers.3.down.weight", "head.norm.bias"):
                assert np.array_equal(prefixed.read(name, 1, 9), plain.read(name, 1, 9))


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("config.json", {"num_attention_heads": 3}, "num_attention_heads"),
        ("config.json", {"block_position_encoding": False}, "positions"),
        ("config.json", {"attention_scale": 2.0}, "attention_scale"),
        ("config.json", {"max_sequence_length": 64}, "shape"),
        ("added_tokens.json", {"<|startofpiece|>": 3}, "two tokens"),
        ("added_tokens.json", {"[CLS]": True}, "none"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, file: str, change: dict[str, object], reason: str) -> None:
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(json.dumps({**json.loads((tmp_path / file).read_text()), **change}))
    with pytest.raises(InvalidInput, match=reason), open_huggingface(tmp_path):
        pass
