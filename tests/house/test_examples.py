"""The examples in docstrings: they run, and say what comes out."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import onnx
import pytest

from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.importing.importer import import_model
from quantize.parts import stage_parts
from tests.support.checkpoints import TinyGlm, write_checkpoint

ROOT = Path(__file__).parents[2]
PACKAGES = ("protos", "quantize", "device", "sim_devices", "fleet")
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_shows_how_it_is_called(package: str) -> None:
    assert [module for module in MODULES if module.startswith(f"{package}.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str, tmp_path: Path) -> None:
    """With the names of their module and those that go with them. `path` is a tiny checkpoint, `manifest` what it is imported as, `root` an
    empty folder."""
    module = importlib.import_module(name)
    path = write_checkpoint(tmp_path / "checkpoint", TinyGlm())
    with open_checkpoint(path) as checkpoint:
        manifest = import_model(checkpoint, ArtifactStore(tmp_path / "imported"), "tiny")
    helpers = {each.__name__: each for each in (ArtifactStore, open_checkpoint, import_model, stage_parts, onnx)}
    names = {**helpers, "root": tmp_path / "store", "path": path, "manifest": manifest}
    tests = [test for test in doctest.DocTestFinder().find(module, extraglobs=names) if test.examples]
    assert tests
    told: list[str] = []
    for test in tests:
        assert doctest.DocTestRunner().run(test, out=told.append).failed == 0, "".join(told)
