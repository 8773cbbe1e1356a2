"""Programs against integers and against onnxruntime: every tensor of a tiny checkpoint of every family."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from protos.chip.core import Core
from protos.chip.program import Program
from protos.errors import InvalidInput
from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore
from quantize.compiler import ir
from quantize.compiler.compile import compile_stage
from quantize.compiler.ir import Shape
from quantize.compiler.lowering import Stage
from sim_devices.chip.functional import Machine, Seen
from sim_devices.chip.memory import weights_of
from tests.quantize.stages import Floats, Pipeline
from tests.support import blanks
from tests.support.chips import CODESIGNED, GENERIC
from tests.support.goldens import NAMES, import_golden, reference

CONTEXT = 64
CORES = {"generic": GENERIC, "codesigned": CODESIGNED}


@dataclass
class Chip:
    """A model as two programs over one cache: a prompt's, and a token's."""

    manifest: Manifest
    store: ArtifactStore
    core: Core
    kv_dtype: str = "float32"

    def machine(self, rows: int, sequences: int = 1, layers: range | None = None) -> Machine:
        every = range(self.manifest.config.layers)
        stage = Stage(self.manifest, every if layers is None else layers, layers is None or not layers.start, layers is None)
        shape = Shape(sequences, rows, CONTEXT, self.kv_dtype)
        program = compile_stage(self.manifest, stage.parts, self.core, shape).program
        return started(program, self.core, self.manifest, self.store)

    def logits(self, prompt: npt.NDArray[np.int64], after: npt.NDArray[np.int64], **inputs: npt.NDArray[np.generic]) -> Floats:
        """[1 + after, V]: of the prompt's last token, then of each further one."""
        first, then = self.machine(len(prompt)), self.machine(1)
        columns, given = self.manifest.config.vocab_size, {name: values[: len(prompt)] for name, values in inputs.items()}
        first.run([0], {"ids": prompt.astype(np.int32), **given})
        found = [first.output("logits", columns)]
        copy_caches(first, then)
        for number, token in enumerate(after):
            at = len(prompt) + number
            then.run([at], {"ids": np.array([token], np.int32), **{name: values[at : at + 1] for name, values in inputs.items()}})
            found.append(then.output("logits", columns))
        return np.concatenate(found)


def started(program: Program, core: Core, manifest: Manifest, store: ArtifactStore) -> Machine:
    return Machine(program, core, weights_of(program, manifest, store.blob_folder))


def copy_caches(source: Machine, target: Machine) -> None:
    for name in source.dram.names("cache"):
        target.dram.region(name)[...] = source.dram.region(name)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def whole(manifest: Manifest) -> Stage:
    return Stage(manifest, range(manifest.config.layers), True, True)


def levels_of(matrix: ir.Matrix, weights: dict[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.int64]:
    """[rows, columns, padded] around zero, from the artifact's bytes."""
    raw = weights[matrix.levels.region].astype(np.int64)
    if matrix.bits == 4:
        raw = np.stack([raw % 16, raw // 16], axis=-1).reshape(-1)
    blocks = raw.reshape(matrix.rows, matrix.blocks, matrix.block)
    if matrix.zeros is None:
        return (blocks - (1 << (matrix.bits - 1))).reshape(matrix.rows, -1)
    zeros = weights[matrix.zeros.region].astype(np.int64)
    zeros = np.stack([zeros % 16, zeros // 16], axis=-1).reshape(matrix.rows, -1)[:, : matrix.blocks]
    return (blocks - zeros[..., None]).reshape(matrix.rows, -1)


def check_integers(manifest: Manifest, store: ArtifactStore, core: Core, rows: int, ids: npt.NDArray[np.int64]) -> int:
    """Every level and every sum again with 64-bit integers; of each product all of its matrix. How many products there were."""
    compiled = compile_stage(manifest, whole(manifest).parts, core, Shape(1, rows, CONTEXT))
    weights = weights_of(compiled.program, manifest, store.blob_folder)
    totals: dict[int, int] = {}
    given: dict[int, npt.NDArray[np.int64]] = {}
    before: list[npt.NDArray[np.int64]] = []

    def check(seen: Seen) -> None:
        if seen.weights is None:
            block = seen.placed.instruction["block"] if seen.placed.instruction.name == "QUANT" else 32
            padded = np.zeros(seen.made.shape, np.float32)
            padded[:, : seen.given.shape[1]] = seen.given
            blocks = padded.reshape(len(padded), -1, block)
            largest = np.abs(blocks).max(axis=-1, keepdims=True)
            exact = np.rint(blocks * np.where(largest > 0, np.float32(127) / np.where(largest > 0, largest, 1), np.float32(0)))
            assert seen.made.dtype == np.int8
            assert np.array_equal(seen.made, exact.reshape(seen.made.shape))
            return
        product = seen.given.astype(np.int64) @ seen.weights.astype(np.int64)
        assert seen.made.dtype == np.int32
        assert np.array_equal(seen.made, product + before[0] if seen.placed.instruction.has("accumulate") else product)
        before[:] = [seen.made.astype(np.int64)]
        totals[seen.operator] = totals.get(seen.operator, 0) + int(product.sum())
        pieces = given.setdefault(seen.operator, np.zeros((seen.given.shape[0], 0), np.int64))
        given[seen.operator] = np.concatenate([pieces, seen.given.astype(np.int64)], axis=1)

    machine = Machine(compiled.program, core, weights, check)
    machine.run([0], {"ids": ids[:rows].astype(np.int32)})
    products = {number: step.operation for number, step in enumerate(compiled.legalised) if isinstance(step.operation, ir.Product)}
    assert products.keys() <= totals.keys()
    for number, product in products.items():
        matrix = levels_of(product.matrix, weights)[product.first : product.first + product.to.width]
        columns = matrix.shape[1]
        rows_given = given[number][:, :columns]  # the first tile of outputs has all inputs
        assert totals[number] == int((rows_given @ matrix.T).sum()), compiled.legalised[number].name
    return len(products)


@pytest.mark.parametrize("golden", NAMES)
def test_levels_and_sums_are_exact_integers(golden: str, tmp_path: Path) -> None:
    manifest, store = import_golden(golden, tmp_path)
    ids = reference(golden)[0][0]
    assert check_integers(manifest, store, GENERIC, 5, ids) > 4 * manifest.config.layers
    assert check_integers(manifest, store, CODESIGNED, 1, ids) > 4 * manifest.config.layers


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("golden", NAMES)
def test_logits_are_onnxruntimes(golden: str, core: str, tmp_path: Path) -> None:
    """A prompt, then token by token. Rounding may take another level here and there, which is what int8 costs at most."""
    manifest, store = import_golden(golden, tmp_path)
    ids, expected = reference(golden)
    ids, expected = ids[0][:20], expected[0]
    prompt = len(ids) - 3
    found = Chip(manifest, store, CORES[core]).logits(ids[:prompt], ids[prompt:])
    pipeline = Pipeline(manifest, store.blob_folder, level=4, capacity=CONTEXT)
    theirs = [pipeline.step(ids[None, :prompt], [0])[0, -1:]]
    theirs += [pipeline.step(ids[None, at : at + 1], [at])[0] for at in range(prompt, len(ids))]
    difference, quantization = rms(found - np.concatenate(theirs)), rms(found - expected[prompt - 1 : len(ids)])
    assert difference < quantization
    assert kl(np.concatenate(theirs), found) <= 1e-3


def rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))


def kl(expected: Floats, found: Floats) -> float:
    logs = [values - values.max(axis=-1, keepdims=True) for values in (expected.astype(np.float64), found.astype(np.float64))]
    p, q = (log - np.log(np.exp(log).sum(axis=-1, keepdims=True)) for log in logs)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())
