"""Prepacked weights: the same bits as without, never trusted unread, bounded on the disk, and never why a load fails."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from device.agent.host import StageHost
from device.blobs import BlobStore
from device.cpu import CpuHardware
from device.engine.prepack import INDEX, index_lines
from device.engine.prepacked import Prepacked, PrepackedStages, cpu_identity
from device.engine.stage import OutputHead, StageEngine
from device.stage_spec import StageSpec
from protos.errors import NotFound
from protos.ids import DeviceId, PipelineId
from tests.support.checkpoints import TinyGlm
from tests.support.stage_specs import TinyStages
from tests.support.waiting import wait_until

PLENTY = 1 << 40
SHAPE = TinyGlm(hidden_size=320, layers=2, heads=4, kv_heads=2, head_dim=32, intermediate_size=384)


@dataclass(frozen=True)
class Model:
    stages: TinyStages
    spec: StageSpec

    @property
    def blob_folder(self) -> Path:
        return self.stages.blob_folder

    @property
    def weight_bytes(self) -> int:
        return sum((self.blob_folder / digest).stat().st_size for digest in self.spec.blobs)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    stages = TinyStages.make(tmp_path_factory.mktemp("model"), SHAPE, 128)
    (spec,) = stages.specs(context=32, slots=2, chunk=32)
    return Model(stages, spec)


def stages_in(
    root: Path,
    *,
    disk: Callable[[], int] = lambda: PLENTY,
    memory: int = PLENTY,
    unused: int = PLENTY,
    least: int = 0,
    environment: str | None = None,
) -> PrepackedStages:
    return PrepackedStages(
        root, disk, environment=environment, unused_limit_bytes=unused, least_weight_bytes=least, memory_bytes=lambda: memory
    )


async def saved(store: PrepackedStages, model: Model, spec: StageSpec | None = None) -> bool:
    return await store.save(spec or model.spec, model.blob_folder, list)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def answer(model: Model, prepacked: Prepacked | None) -> bytes:
    """All bits of a prompt's and some steps' logits."""
    head = OutputHead(model.spec, model.blob_folder, 1, prepacked.head if prepacked else None)
    engine = StageEngine(model.spec, model.blob_folder, 1, prepacked.stage if prepacked else None)
    logits = [head.logits(engine.prefill(0, 0, 0, np.arange(9))).copy()]
    logits += [head.logits(engine.decode(0, [0], [9 + step], np.array([step]))).copy() for step in range(4)]
    return b"".join(rows.tobytes() for rows in logits)


def other(spec: StageSpec, number: int) -> StageSpec:
    """The same weights for another key."""
    return replace(spec, graph=spec.graph + bytes((0x1A, 1, 48 + number)))  # ModelProto.producer_version


async def test_the_saved_stage_gives_the_same_bits(model: Model, tmp_path: Path) -> None:
    store = stages_in(tmp_path / "prepacked")
    assert store.find(model.spec, 1) is None
    assert await saved(store, model)
    entry = store._folder(model.spec)
    assert names(tmp_path / "prepacked") == [entry.name]
    found = store.find(model.spec, 2)
    assert found
    assert answer(model, found) == answer(model, None)
    # What the kernels want is in the file, beside the raw form: else nothing would be gained.
    assert (entry / "stage.weights").stat().st_size > 1.7 * sum(part.cost.weight_bytes for part in model.stages.manifest.parts[2:4])
    # Another store finds it too, and whoever loads it needs no blobs.
    again = stages_in(tmp_path / "prepacked").find(model.spec, 1)
    assert again
    StageEngine(model.spec, tmp_path / "nothing", 1, again.stage)


async def test_the_key_is_all_that_decides(model: Model, tmp_path: Path) -> None:
    spec = model.spec
    store = stages_in(tmp_path, environment="onnxruntime 1, cpu a")
    assert await saved(store, model)
    assert stages_in(tmp_path, environment="onnxruntime 2, cpu a").find(spec, 1) is None
    for changed in (other(spec, 1), replace(spec, head_graph=spec.graph), replace(spec, blobs=spec.blobs[:-1])):
        assert store.find(changed, 1) is None
    assert store.find(replace(spec, epoch=spec.epoch + 1, pipeline=PipelineId("another")), 1)


def test_cores_of_another_kind_are_another_cpu(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"

    def identity(text: str) -> str:
        file.write_text(text)
        return cpu_identity(file)

    core = "processor : 0\nmodel name : A\ncpu MHz : 1\nflags : fma avx2\n\n"
    assert identity(core) == identity(core.replace("MHz : 1", "MHz : 2") + core.replace(": 0", ": 1"))
    assert identity(core) != identity(core.replace("avx2", "avx2 avx512_vnni"))
    assert identity("CPU part : 0xd05\nFeatures : asimddp\n") != identity("CPU part : 0xd05\n\nCPU part : 0xd0b\nFeatures : asimddp\n")
    assert cpu_identity(tmp_path / "none")


@pytest.fixture(scope="module")
def entry(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepacked")
    assert asyncio.run(saved(stages_in(root), model))
    return stages_in(root)._folder(model.spec)


@pytest.mark.parametrize("file", ["stage.onnx", "stage.weights", "head.weights", "index.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_what_changed_on_the_disk_is_dropped(model: Model, entry: Path, tmp_path: Path, file: str, damage: str) -> None:
    path = Path(shutil.copytree(entry, tmp_path / entry.name)) / file
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes({"flip": data, "cut": data[: len(data) // 2], "grow": data + b"\n0"}[damage])
    assert stages_in(tmp_path).find(model.spec, 1) is None
    assert not names(tmp_path)


async def test_small_stages_are_not_worth_it(model: Model, tmp_path: Path) -> None:
    assert not await saved(stages_in(tmp_path, least=model.weight_bytes + 1), model)
    assert not names(tmp_path)


@pytest.mark.parametrize(("disk", "memory"), [(2.9, 9.0), (9.0, 1.1)], ids=["disk", "memory"])
async def test_without_room_nothing_is_saved_and_one_line_says_so(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture, disk: float, memory: float
) -> None:
    free = int(disk * model.weight_bytes)
    assert not await saved(stages_in(tmp_path, disk=lambda: free, memory=int(memory * model.weight_bytes)), model)
    assert not names(tmp_path)
    (record,) = caplog.records
    assert "are needed" in record.getMessage()


async def test_a_graph_that_cannot_be_saved_leaves_nothing(model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not await saved(stages_in(tmp_path), model, replace(model.spec, graph=b"no graph"))
    assert not names(tmp_path)
    (record,) = caplog.records
    assert "onnxruntime refuses" in record.getMessage()
    assert "\n" not in record.getMessage()


async def test_entries_of_no_loaded_stage_make_way_oldest_use_first(model: Model, tmp_path: Path) -> None:
    specs = [other(model.spec, number) for number in range(4)]
    store = stages_in(tmp_path)
    for spec in specs[:3]:
        assert await saved(store, model, spec)
    for stamp, number in enumerate((2, 0, 1)):
        os.utime(store._folder(specs[number]), (stamp, stamp))

    def held() -> list[int]:
        return [number for number, spec in enumerate(specs) if store._folder(spec).is_dir()]

    entry_bytes = sum(file.stat().st_size for file in store._folder(specs[0]).iterdir())
    # The disk has room for a fourth once there are two of them; number 2 is the oldest, but loaded.
    short = stages_in(tmp_path, disk=lambda: PLENTY if len(held()) <= 2 else 0)
    assert await short.save(specs[3], model.blob_folder, lambda: [specs[2]])
    assert held() == [1, 2, 3]
    # The bound on what nobody uses.
    bounded = stages_in(tmp_path, unused=entry_bytes)
    assert await bounded.save(specs[0], model.blob_folder, lambda: [specs[2]])
    assert held() == [0, 2, 3]
    # Use renews.
    os.utime(store._folder(specs[2]), (0, 0))
    assert store.find(specs[2], 1)
    assert store._folder(specs[2]).stat().st_mtime > 1e9
    unused = store.unused_bytes([specs[2]])
    assert store.retain([specs[2]]) == unused > 1.9 * entry_bytes
    assert store.unused_bytes([specs[2]]) == 0
    assert held() == [2]


async def test_cancelled_saving_leaves_nothing(model: Model, tmp_path: Path) -> None:
    store = stages_in(tmp_path)
    saving = asyncio.create_task(saved(store, model))
    await wait_until(lambda: any(tmp_path.glob("incoming-*/stage.graph")))
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert not names(tmp_path)


def test_what_a_killed_agent_left_is_cleaned_up(tmp_path: Path) -> None:
    (tmp_path / "incoming-1").mkdir()
    (tmp_path / "incoming-1" / "stage.weights").write_bytes(b"half")
    stages_in(tmp_path)
    assert not names(tmp_path)


@pytest.fixture
def blobs(model: Model, tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "blobs")
    for digest in model.spec.blobs:
        shutil.copy(model.blob_folder / digest, store.folder / digest)
    return store


@asynccontextmanager
async def hosting(blobs: BlobStore, root: Path) -> AsyncIterator[StageHost]:
    hardware = CpuHardware(1 << 30, 1)
    try:
        async with StageHost(DeviceId("me"), hardware, blobs, None, stages_in(root)) as host:
            yield host
    finally:
        hardware.close()


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)


async def test_a_device_maps_at_its_next_start_what_it_saved_behind_the_first(model: Model, blobs: BlobStore, tmp_path: Path) -> None:
    root, spec = tmp_path / "prepacked", model.spec
    async with hosting(blobs, root) as host:
        await host.load(spec)
        (loaded,) = host.loaded
        assert loaded.saver
        assert await loaded.saver
    # A blob that changed is not read any more; one that is gone is missed all the same.
    blob = blobs.folder / spec.blobs[0]
    blob.write_bytes(b"changed")
    async with hosting(blobs, root) as host:
        await host.load(spec)
        await host.unload(spec.generation, spec.pipeline)
        blob.unlink()
        with pytest.raises(NotFound):
            await host.load(spec)
        # Where space is wanted, what no loaded stage uses goes.
        assert await host.retain_blobs(spec.generation, set(spec.blobs)) > model.weight_bytes
    assert not names(root)


async def test_an_entry_that_onnxruntime_refuses_is_dropped_and_the_stage_loads(
    model: Model, entry: Path, blobs: BlobStore, tmp_path: Path
) -> None:
    root = tmp_path / "prepacked"
    copy = Path(shutil.copytree(entry, root / entry.name))
    (copy / "stage.onnx").write_bytes(b"sound, says the index")
    (copy / INDEX).write_text("\n".join(index_lines(copy, 1)))
    async with hosting(blobs, root) as host:
        await host.load(model.spec)
        (loaded,) = host.loaded
        assert loaded.saver
        assert await loaded.saver  # and saved anew
    assert stages_in(root).find(model.spec, 1)


async def test_unloading_ends_the_saving(model: Model, blobs: BlobStore, tmp_path: Path) -> None:
    root = tmp_path / "prepacked"
    async with hosting(blobs, root) as host:
        await host.load(model.spec)
        await wait_until(lambda: any(root.glob("incoming-*/stage.graph")))
    assert not names(root)
