"""The road of a chip's toolchain through a coordinator: compiled there, pushed, loaded and run, beside devices that run graphs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from device.cpu import CpuHardware
from device.engine.opening import ONNX
from device.hardware import Hardware
from fleet.answering.views import GenerateRequest
from fleet.deploying.candidates import candidates, core_told, runs_programs
from fleet.home import Home
from fleet.planning.plan import Plan, PlanRequest
from fleet.service.coordinator import Coordinator
from protos.chip.core import Core
from protos.chip.program import parse_program
from protos.chip.wire import core_message
from protos.dialects import DIALECT
from protos.errors import FleetError, InvalidInput, NoSpace
from protos.v1 import device_pb2 as pb
from sim_devices.chip.engine import isa_runtime
from sim_devices.hardware import SimulatedHardware
from sim_devices.profiles import load_profile
from tests.fleet.deploying.test_candidates import record
from tests.support.checkpoints import TinyGlm
from tests.support.chips import CODESIGNED
from tests.support.fake_fleet import QUICK, ask
from tests.support.ring import agents, tiny_model
from tests.support.waiting import wait_online

PROFILE = load_profile("rk3588")
PROMPT = GenerateRequest(model="tiny", prompt_ids=(3, 1, 4, 1, 5, 9), max_tokens=8)
TINY_CORE = replace(CODESIGNED, scratchpad_bytes=1 << 12)


@dataclass
class Fleet:
    """Devices "dev-0" and on."""

    coordinator: Coordinator
    home: Home
    folder: Path

    async def deploy(self, stages: int | None = None, devices: Sequence[int] = ()) -> Plan:
        request = PlanRequest("tiny", stages=stages, context=64, devices=tuple(f"dev-{number}" for number in devices))
        events = [event async for event in self.coordinator.deploy(request)]
        return next(event.plan for event in events if event.plan)

    async def text(self) -> tuple[int, ...]:
        chunks, _ = await ask(self.coordinator, PROMPT)
        return tuple(token for chunk in chunks for token in chunk.token_ids)

    def blobs(self, number: int) -> list[Path]:
        return [path for path in (self.folder / f"dev-{number}" / "blobs").rglob("*") if path.is_file()]


def a_chip(dialect: str = "", core: Core = CODESIGNED) -> SimulatedHardware:
    return SimulatedHardware(PROFILE.run_as("compiled", dialect), "fast", core=core)


@asynccontextmanager
async def fleet(folder: Path, kinds: str, core: Core = CODESIGNED, **model: Any) -> AsyncIterator[Fleet]:
    """Of each kind by letter: "p" executes programs, "t" is timed by them, "g" runs graphs on this machine's CPU."""
    home = Home.open(folder / "home")
    tiny_model(home.path, TinyGlm(layers=4), **model)
    hardware: list[Hardware] = [
        CpuHardware(1 << 30, 1) if kind == "g" else a_chip("glm-isa" if kind == "p" else "", core) for kind in kinds
    ]
    runtimes = [isa_runtime(core) if kind == "p" else ONNX for kind in kinds]
    async with (
        agents(home.path, hardware, runtimes) as (_, peers, _),
        Coordinator(
            home,
            seeds=[peer.address for peer in peers],
            interfaces=(),
            rules=QUICK,
            period_seconds=0.2,
            batch_seconds=0.05,
            discovery_seconds=0.0,
            recovery_seconds=0.0,
        ) as coordinator,
    ):
        await wait_online(coordinator.devices, len(kinds), 10)
        yield Fleet(coordinator, home, home.path)


async def test_programs_are_compiled_pushed_loaded_and_run_in_a_mixed_fleet(tmp_path: Path) -> None:
    async with fleet(tmp_path, "pgp") as made:
        texts = set()
        for devices in ([1], [0], [0, 1, 2]):
            plan = await made.deploy(len(devices), devices)
            assert len(plan.stages) == len(devices)
            texts.add(await made.text())
        assert len(texts) == 1
        programs = [parse_program(path.read_bytes()) for path in made.blobs(0) if path.read_bytes()[:7] == b"GLMCHIP"]
        assert {program.target.core_digest for program in programs} == {CODESIGNED.digest}
        assert not [path for path in made.blobs(1) if path.read_bytes()[:7] == b"GLMCHIP"]


async def test_times_come_with_the_stage_and_the_plan_says_what_the_roofline_says(tmp_path: Path) -> None:
    async with fleet(tmp_path, "tg") as made:
        plan = await made.deploy(2)
        (line,) = [line for line in plan.why if "by its programs" in line]
        assert "by the roofline of its figures (" in line
        assert "most of it is" in line
        _, result = await ask(made.coordinator, PROMPT)
        assert len(result.token_ids) == 8


@pytest.mark.parametrize(
    ("kinds", "core", "model", "kind", "why"),
    [
        ("pp", TINY_CORE, {}, NoSpace, "does not fit into small: 4,096 bytes of scratchpad"),
        ("p", CODESIGNED, {"bits": 8, "symmetric": False}, InvalidInput, "8-bit weights with zero points"),
    ],
    ids=["a tile that cannot fit", "an operator without a lowering"],
)
async def test_what_no_device_can_compile_is_refused_before_anything_is_sent(
    tmp_path: Path, kinds: str, core: Core, model: dict[str, object], kind: type[FleetError], why: str
) -> None:
    async with fleet(tmp_path, kinds, core, **model) as made:
        with pytest.raises(kind, match=why) as caught:
            await made.deploy()
        assert "\n" not in str(caught.value)
        assert "dev-" in str(caught.value)
        assert made.blobs(0) == []


async def test_a_device_that_cannot_is_left_out_where_others_can(tmp_path: Path) -> None:
    async with fleet(tmp_path, "pg", TINY_CORE) as made:
        plan = await made.deploy()
        assert [stage.device_name for stage in plan.stages] == ["dev-1"]
        assert [line for line in plan.why if line.startswith("left out: ") and "does not fit" in line]


def told(**accelerator: object) -> pb.DeviceDescription:
    return pb.DeviceDescription(dialects=["glm-isa"], accelerator=pb.Accelerator(**accelerator))  # type: ignore[arg-type]


def test_a_device_is_used_whose_core_we_can_compile_for() -> None:
    core = core_message(CODESIGNED)
    assert core_told(told(core=core)) == CODESIGNED
    assert runs_programs(told(core=core))
    for dialects, programs in ((["glm-isa", DIALECT], True), ([DIALECT, "glm-isa"], False), ([DIALECT], False), (["other"], False)):
        both = told(core=core)
        both.dialects[:] = dialects
        assert runs_programs(both) == programs
    graphs = told()
    graphs.dialects[:] = ["glm-isa", DIALECT]
    assert not runs_programs(graphs)  # it tells of no core
    beyond = pb.DeviceDescription()
    beyond.CopyFrom(told(core=core))
    beyond.accelerator.core.arrays = 1 << 20
    assert core_told(beyond) is None
    usable = []
    for description in (told(core=core), told(), beyond):
        one = record("a", dialect="glm-isa")
        assert one.description
        one.description.accelerator.CopyFrom(description.accelerator)
        usable.append(len(candidates([one], (), replaces="")))
    assert usable == [1, 0, 0]
