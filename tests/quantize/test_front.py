"""The examples in the docstrings of what others call: they run, on the tiny model, and say what comes out."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from quantize.artifact.costs import stage_cost
from quantize.artifact.graph import build_stage_graph
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.importer import import_model
from quantize.parts import stage_parts
from tests.quantize.conftest import Imported
from tests.support.checkpoints import TinyGlm, write_checkpoint


@pytest.mark.parametrize("front", [import_model, open_checkpoint, ArtifactStore, build_stage_graph, stage_cost])
def test_the_example_is_true(front: object, imported: Callable[..., Imported], tmp_path: Path) -> None:
    names = {
        "root": tmp_path / "store",
        "path": write_checkpoint(tmp_path / "checkpoint", TinyGlm()),
        "manifest": imported(TinyGlm()).manifest,
        **{each.__name__: each for each in (import_model, open_checkpoint, ArtifactStore, build_stage_graph, stage_cost, stage_parts)},
        "onnx": onnx,
    }
    text = front.__doc__ or ""
    example = doctest.DocTestParser().get_doctest(text, names, str(front), None, None)
    assert example.examples
    told: list[str] = []
    assert doctest.DocTestRunner().run(example, out=told.append).failed == 0, "".join(told)
