"""Programs against integers and against onnxruntime: every tensor of a tiny checkpoint of every family."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from protos.chip.core import Core
from protos.chip.program import Program
from protos.errors import Corrupt, InvalidInput
from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.formats import open_checkpoint
from quantize.compiler import ir
from quantize.compiler.compile import compile_stage
from quantize.compiler.ir import Shape
from quantize.compiler.lowering import Stage
from quantize.importing.importer import import_model
from sim_devices.chip.functional import Machine, Seen
from sim_devices.chip.memory import weights_of
from tests.quantize.stages import Floats, Pipeline
from tests.support import blanks
from tests.support.checkpoints import tokenizer_json, write_json
from tests.support.chips import CODESIGNED, GENERIC
from tests.support.goldens import NAMES, golden_folder, import_golden, reference

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


@pytest.mark.parametrize("golden", NAMES)
def test_logits_are_onnxruntimes(golden: str, tmp_path: Path) -> None:
    """A prompt, then token by token. Rounding may take another level here and there, which is what int8 costs at most."""
    manifest, store = import_golden(golden, tmp_path)
    ids, expected = reference(golden)
    ids, expected = ids[0][:20], expected[0]
    prompt = len(ids) - 3
    core = list(CORES.values())[NAMES.index(golden) % 2]
    found = Chip(manifest, store, core).logits(ids[:prompt], ids[prompt:])
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


def test_blanks_are_filled_as_onnxruntime_does(tmp_path: Path) -> None:
    """A prefix that sees all of itself, learned positions, layer norm, GELU."""
    manifest, store = blanks.blank_model(tmp_path)
    case = blanks.expected()[0]
    ids, positions = case.ids[: case.prefix + 4].astype(np.int64), case.positions
    assert check_integers(manifest, store, GENERIC, 4, ids) > 4 * manifest.config.layers
    pipeline = Pipeline(manifest, store.blob_folder, level=4, capacity=CONTEXT)
    prefix = case.prefix
    theirs = [pipeline.step(ids[None, :prefix], [0], positions[None, :prefix])[0, -1:]]
    theirs += [pipeline.step(ids[None, at : at + 1], [at], positions[None, at : at + 1])[0] for at in range(prefix, len(ids))]
    for core in CORES.values():
        found = Chip(manifest, store, core).logits(ids[:prefix], ids[prefix:], positions=positions.astype(np.int32))
        assert kl(np.concatenate(theirs), found) <= 1e-3


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False)])
def test_four_bits_and_zero_points(bits: Literal[4], symmetric: bool, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden_folder("glm-edge"), tmp_path / "checkpoint"))
    write_json(folder / "tokenizer.json", tokenizer_json())
    store = ArtifactStore(tmp_path / "store")
    with open_checkpoint(folder) as checkpoint:
        manifest = import_model(checkpoint, store, "golden", bits=bits, symmetric=symmetric, block_size=32)
    ids = reference("glm-edge")[0][0][:12]
    for core in CORES.values():
        check_integers(manifest, store, core, 3, ids)
    pipeline = Pipeline(manifest, store.blob_folder, level=4, capacity=CONTEXT)
    theirs = pipeline.step(ids[None, :12], [0])[0, -1:]
    assert kl(theirs, Chip(manifest, store, CODESIGNED).logits(ids, ids[:0])) <= 1e-3


def test_float32_weights_are_multiplied_as_floats(tmp_path: Path) -> None:
    manifest, store = import_golden("glm-edge", tmp_path, 32)
    ids, expected = reference("glm-edge")
    found = Chip(manifest, store, GENERIC).logits(ids[0][:9], ids[0][9:11])
    assert np.abs(found - expected[0][8:11]).max() < 1e-3


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ArtifactStore]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        return import_golden("glm-edge", tmp_path_factory.mktemp("edge"))


@pytest.mark.parametrize("core", CORES)
def test_a_cut_changes_no_bit(edge: tuple[Manifest, ArtifactStore], core: str) -> None:
    manifest, store = edge
    chip = Chip(manifest, store, CORES[core])
    ids, layers = reference("glm-edge")[0][0][:6].astype(np.int32), manifest.config.layers
    first, second = chip.machine(6, layers=range(1)), chip.machine(6, layers=range(1, layers))
    both = chip.machine(6, layers=range(layers))
    both.run([0], {"ids": ids})
    first.run([0], {"ids": ids})
    width = manifest.config.hidden_size
    second.run([0], {"hidden_in": first.output("hidden_out", width)})
    assert np.array_equal(second.output("hidden_out", width), both.output("hidden_out", width))


@pytest.mark.parametrize("core", CORES)
def test_sequences_beside_one_another_do_not_meet(edge: tuple[Manifest, ArtifactStore], core: str) -> None:
    """Three sequences in one program, each at its own position, are what each is alone; so are rows fed one by one."""
    manifest, store = edge
    chip = Chip(manifest, store, CORES[core])
    ids, columns = reference("glm-edge")[0][0].astype(np.int32), manifest.config.vocab_size
    together, alone = chip.machine(1, sequences=3), [chip.machine(1) for _ in range(3)]
    starts = (0, 2, 5)
    for machine, start in zip(alone, starts, strict=True):
        for at in range(start):
            machine.run([at], {"ids": ids[at : at + 1]})
    for name in together.dram.names("cache"):
        together.dram.region(name)[...] = np.concatenate([machine.dram.region(name) for machine in alone])
    given = np.array([ids[start] for start in starts], np.int32)
    together.run(starts, {"ids": given})
    found = together.output("logits", columns)
    for number, (machine, start) in enumerate(zip(alone, starts, strict=True)):
        machine.run([start], {"ids": given[number : number + 1]})
        assert np.abs(machine.output("logits", columns)[0] - found[number]).max() < 1e-4


@pytest.mark.parametrize(("kv_dtype", "bound"), [("float16", 1e-3), ("int8", 1e-2)])
def test_smaller_caches_change_little(edge: tuple[Manifest, ArtifactStore], kv_dtype: str, bound: float) -> None:
    manifest, store = edge
    ids = reference("glm-edge")[0][0][:14]
    plain = Chip(manifest, store, CODESIGNED).logits(ids[:10], ids[10:])
    for core in CORES.values():
        assert 0 < kl(plain, Chip(manifest, store, core, kv_dtype).logits(ids[:10], ids[10:])) < bound


def test_the_int8_cache_is_onnxruntimes(edge: tuple[Manifest, ArtifactStore]) -> None:
    manifest, store = edge
    ids = reference("glm-edge")[0][0][:14]
    pipeline = Pipeline(manifest, store.blob_folder, level=4, capacity=CONTEXT, kv_dtype="int8")
    theirs = [pipeline.step(ids[None, :10], [0])[0, -1:]]
    theirs += [pipeline.step(ids[None, at : at + 1], [at])[0] for at in range(10, 14)]
    found = Chip(manifest, store, CODESIGNED, "int8").logits(ids[:10], ids[10:])
    assert kl(np.concatenate(theirs), found) <= 1e-3


def test_what_does_not_belong_to_a_program_is_refused(edge: tuple[Manifest, ArtifactStore], tmp_path: Path) -> None:
    manifest, store = edge
    machine = Chip(manifest, store, GENERIC).machine(2)
    with pytest.raises(InvalidInput, match="at most 62 rows before 2"):
        machine.run([63], {"ids": np.zeros(2, np.int32)})
    with pytest.raises(InvalidInput, match="input ids has 4 bytes instead of 8"):
        machine.run([0], {"ids": np.zeros(1, np.int32)})
    with pytest.raises(Corrupt, match="FETCH: 70000 is not within 0 and"):
        machine.run([0], {"ids": np.full(2, 70_000, np.int32)})
    other, _ = import_golden("glm-4-9b-chat", tmp_path)
    program = compile_stage(manifest, whole(manifest).parts, GENERIC, Shape(context=CONTEXT)).program
    with pytest.raises(InvalidInput, match="another artifact"):
        weights_of(program, other, store.blob_folder)
