"""Experts in tensors of three dimensions are the same experts."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from protos.errors import InvalidInput
from quantize.checkpoints.checkpoint import tensor_shapes
from quantize.checkpoints.huggingface import open_huggingface
from tests.support.checkpoints import Arrays, tokenizer_json, write_json
from tests.support.goldens import golden_folder

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight")


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(golden_folder("glm-4.5"), tmp_path / "golden"))
    write_json(folder / "tokenizer.json", tokenizer_json())
    return folder


def stacked(tensors: Arrays, *, together: bool, suffix: str) -> Arrays:
    """As transformers 5 keeps them, gate and up `together` or apart."""
    plain: Arrays = {}
    found: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for name, values in tensors.items():
        if match := _EXPERT.fullmatch(name):
            found[f"{match[1]}.{match[3]}"][int(match[2])] = values
        else:
            plain[name] = values
    stacks = {name: np.stack([experts[number] for number in sorted(experts)]) for name, experts in found.items()}
    if together:
        for name in [name for name in stacks if name.endswith("gate_proj")]:
            up = stacks.pop(name.replace("gate_proj", "up_proj"))
            stacks[name.replace("gate_proj", "gate_up_proj")] = np.concatenate([stacks.pop(name), up], axis=1)
    return plain | {name + suffix: values for name, values in stacks.items()}


@pytest.mark.parametrize(("together", "suffix"), [(True, ""), (False, ""), (True, ".weight")])
def test_they_are_read_as_they_are_one_by_one(golden: Path, tmp_path: Path, together: bool, suffix: str) -> None:
    folder = Path(shutil.copytree(golden, tmp_path / "stacked"))
    tensors = stacked(load_file(folder / "model.safetensors"), together=together, suffix=suffix)
    assert any(values.ndim == 3 for values in tensors.values())
    save_file(tensors, folder / "model.safetensors")
    with open_huggingface(golden) as theirs, open_huggingface(folder) as ours:
        for name, (rows, *_) in tensor_shapes(theirs.config).items():
            whole = theirs.read(name, 0, rows)
            assert np.array_equal(ours.read(name, 0, rows), whole), name
            assert np.array_equal(ours.read(name, rows // 3, rows // 3 + rows // 2), whole[rows // 3 : rows // 3 + rows // 2]), name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda values: values[:, :-1], "has 79 rows for gate and up"),
        (lambda values: np.zeros((5000, 2, 1), values.dtype), "which no experts are"),
        (lambda values: np.zeros((8, 2, 0), values.dtype), "which no experts are"),
        (lambda values: values[:-1], r"no tensor model\.layers\.1\.mlp\.experts\.7\.gate_proj\.weight"),
        (lambda values: np.concatenate([values, values[:1]]), r"has not: model\.layers\.1\.mlp\.experts\.8\."),
        (lambda values: np.ascontiguousarray(values.transpose(0, 2, 1)), r"has shape \[36, 80\], config\.json asks for \[40, 72\]"),
    ],
)
def test_stacks_of_another_shape_are_refused(golden: Path, change: object, says: str) -> None:
    tensors = stacked(load_file(golden / "model.safetensors"), together=True, suffix="")
    name = "model.layers.1.mlp.experts.gate_up_proj"
    tensors[name] = np.ascontiguousarray(change(tensors[name]))  # type: ignore[operator]
    save_file(tensors, golden / "model.safetensors")
    with pytest.raises(InvalidInput, match=says), open_huggingface(golden):
        pytest.fail("opened")
