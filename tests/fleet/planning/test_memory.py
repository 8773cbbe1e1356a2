"""What a plan counts for a stage is what its device counts, reserves and is sent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from device.agent.host import StageHost
from device.blobs import BlobStore
from device.cpu import CpuHardware
from device.engine.stage import StageEngine, bound_caches
from device.stage_spec import parse_spec
from fleet.deploying.desired import new_desired
from fleet.deploying.load_order import Neighbours, load_request
from fleet.planning.costs import shape_for, stage_need
from fleet.planning.plan import Plan, PlanRequest
from fleet.planning.planner import PlannerDevice, plan
from protos.dtypes import KV_ITEM_BYTES, KvDtype
from protos.ids import DeviceId, parse_digest
from protos.manifest import Manifest
from protos.v1 import device_pb2 as pb
from quantize.artifact.store import ArtifactStore
from quantize.parts import stage_parts
from tests.support.blanks import blank_model
from tests.support.checkpoints import TinyGlm
from tests.support.goldens import import_golden
from tests.support.ring import tiny_model

HOP = pb.Hop(device_id="nextnextnextnext", address="127.0.0.1:1")


def a_model(name: str, folder: Path) -> tuple[Manifest, ArtifactStore]:
    if name == "latent":
        return import_golden("glm-4.7-flash", folder)
    return blank_model(folder) if name == "blank" else tiny_model(folder, TinyGlm(layers=4, tied_head=name == "tied"))


@pytest.mark.parametrize(
    ("model", "stages", "context", "slots", "kv"),
    [
        ("untied", 1, 64, 1, "float32"),
        ("tied", 3, 101, 5, "float32"),
        ("tied", 2, 101, 6, "int8"),
        ("blank", 2, 63, 3, "float32"),
        ("latent", 2, 101, 3, "float32"),
        ("latent", 1, 64, 2, "int8"),
    ],
)
async def test_a_planned_stage_takes_what_its_device_says_once_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, stages: int, context: int, slots: int, kv: KvDtype
) -> None:
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)
    manifest, artifacts = a_model(model, tmp_path)
    boards = [PlannerDevice(f"dev-{number}", f"dev-{number}", "cpu", False, 1 << 30) for number in range(stages)]
    made = plan(manifest, boards, PlanRequest("tiny", stages=stages, context=context, slots=slots, kv_dtype=kv))
    hardware = CpuHardware(1 << 30, 1)
    try:
        for place in range(stages):
            await check_stage(tmp_path / f"blobs-{place}", manifest, artifacts, made, place, hardware)
    finally:
        hardware.close()


async def check_stage(folder: Path, manifest: Manifest, artifacts: ArtifactStore, made: Plan, place: int, hardware: CpuHardware) -> None:
    planned = made.stages[place]
    desired = new_desired("tiny", 1, (made,), None)
    request = load_request(manifest, desired, desired.pipelines[0], place, Neighbours(HOP, HOP) if len(made.stages) > 1 else None)
    blobs = BlobStore(folder)
    for digest in request.blobs:
        shutil.copy(artifacts.blob_path(parse_digest(digest)), blobs.folder / digest)
    assert sum((blobs.folder / digest).stat().st_size for digest in request.blobs) == planned.push_bytes
    async with StageHost(DeviceId("me"), hardware, blobs, None) as host:
        await host.load(parse_spec(request))
        (loaded,), (status,) = host.loaded, host.statuses()
        assert status.memory_bytes == host.memory_used_bytes == planned.weight_bytes + planned.kv_bytes
        engine = loaded.stage.engine
        assert isinstance(engine, StageEngine)
        caches = [value.numpy() for group in engine.groups for _, _, value in bound_caches(group, 0, made.slots_per_group)]
        # Keys that are values too are bound twice.
        assert sum({cache.ctypes.data: cache.nbytes for cache in caches}.values()) == planned.kv_bytes


def test_scores_that_are_kept_at_once_are_counted(tmp_path: Path) -> None:
    """Of the real model's size at a long context they are hundreds of MB."""
    need = {}
    for rank in (None, 264):
        manifest, _ = import_golden("glm-4.7-flash", tmp_path / str(rank), latent_rank=rank)
        for kv in KV_ITEM_BYTES:
            shape = shape_for(manifest, stages=1, context=200, slots=2, kv_dtype=kv)
            need[rank, kv] = stage_need(manifest, stage_parts(manifest, 0, 2), shape).activation_bytes
    assert need[None, "float32"] == need[None, "int8"]
    heads, rows, capacity, query = 3, 200, 202, 3 * (264 + 8)
    assert need[264, "float32"] - need[264, "int8"] == 4 * rows * (heads * capacity + 3 * query)
