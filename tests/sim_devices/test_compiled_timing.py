"""Devices that are timed by compiled programs: planner, prediction and device give one figure, and joules are those of the instructions."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.planning.costs import PlannerDevice
from fleet.planning.plan import PlanRequest
from fleet.planning.planner import plan
from fleet.planning.prediction import Prices, Traffic, outlook
from fleet.planning.programs import with_programs
from protos.chip import wire
from protos.chip.timing import dynamic_joules, time_program
from protos.errors import InvalidInput
from protos.manifest import Manifest
from protos.net.transport import Peer
from protos.physics.by_programs import wanted
from protos.physics.timing import Decode, Prefill, StageRun
from protos.rpc_errors import remote
from protos.v1 import device_pb2 as pb
from quantize.compiler.compile import unverified
from quantize.compiler.ir import Shape
from quantize.compiler.stage_times import Model, Pieces
from quantize.parts import EMBEDDING, HEAD, layer_number
from sim_devices.chip.core_profiles import core_of
from sim_devices.hardware import SimulatedHardware, timing_of
from sim_devices.profiles import load_profile
from tests.support.checkpoints import TinyGlm
from tests.support.ring import add_programs, agents, load_requests, put_blob, ring, tiny_model

PROFILE = load_profile("rk3588").run_as("compiled")
CORE = core_of(PROFILE)
PROMPT, COUNT = list(range(3, 40)), 21


def a_board(name: str) -> PlannerDevice:
    return PlannerDevice(
        name, name, PROFILE.name, True, PROFILE.memory_bytes, PROFILE.effective, PROFILE.thermal, core=CORE, timed_by_programs=True
    )


class Recording(SimulatedHardware):
    """What it ran."""

    def __init__(self) -> None:
        super().__init__(PROFILE, "fast", core=CORE)
        self.ran: list[StageRun] = []

    def run(self, run, compute):
        self.ran.append(run)
        return super().run(run, compute)


@pytest.mark.parametrize("stages", [1, 3])
async def test_device_and_prediction_give_one_figure(tmp_path: Path, stages: int) -> None:
    model = tiny_model(tmp_path, TinyGlm(layers=4))
    boards, told = with_programs([a_board(name) for name in "abc"[:stages]], model[0])
    assert told == []
    made = plan(model[0], boards, PlanRequest("tiny", context=128, stages=stages))
    expected = outlook(model[0], made, {board.device_id: board for board in boards}, Traffic(len(PROMPT), COUNT), Prices())
    hardware = [SimulatedHardware(PROFILE, "fast", core=CORE) for _ in range(stages)]
    async with ring(tmp_path / "ring", *model, stages, hardware=hardware, chunk=64, context=128) as one, one.client() as client:
        answer = await client.ask(PROMPT, COUNT)
    assert answer.finished
    timing = answer.finished.timing
    per_token = (timing.modelled_total_seconds - timing.modelled_first_token_seconds) / (COUNT - 1)
    if stages == 1:
        assert timing.modelled_first_token_seconds == pytest.approx(expected.first_token_seconds, rel=1e-9)
        assert per_token == pytest.approx(expected.token_seconds, rel=1e-9)
    else:  # links are not modelled by devices; the layers are cut otherwise
        assert per_token == pytest.approx(expected.token_seconds - expected.hops_seconds, rel=0.05)


async def test_joules_are_those_of_the_instructions(tmp_path: Path) -> None:
    """Of all runs of a ring: the devices' counters, the requests' shares, and the sums over the instructions of whole stages' programs."""
    manifest, store = tiny_model(tmp_path, TinyGlm(layers=4))
    hardware = [Recording() for _ in range(2)]
    async with ring(tmp_path / "ring", manifest, store, 2, hardware=hardware, chunk=64, context=128) as one, one.client() as client:
        answers = await asyncio.gather(*(client.ask([number + 3, *PROMPT], 12) for number in range(3)))
        readings = [item.energy() for item in hardware]
    shares = [0.0, 0.0]
    for answer in answers:
        assert answer.finished
        for usage in answer.finished.usage:
            shares[usage.stage] += usage.joules
    for place, (item, reading) in enumerate(zip(hardware, readings, strict=True)):
        expected = sum(joules_of(manifest, run) for run in item.ran)
        idle = PROFILE.idle_watts * sum(timing_of(PROFILE, CORE).estimate(run).seconds for run in item.ran)
        assert reading.busy_joules == pytest.approx(expected + idle, rel=0.01)
        assert shares[place] == pytest.approx(reading.busy_joules, rel=0.01)
        assert expected > 0.01 * idle  # what is compared is no rounding


def joules_of(manifest: Manifest, run: StageRun) -> float:
    """Over the instructions of the whole programs, and the link."""
    assert run.stage
    layers = tuple(sorted(number for part in run.stage.parts if (number := layer_number(part)) is not None))
    found = run.link_bytes * PROFILE.effective.joules_per_link_byte
    if run.body:
        assert run.programs
        times, program = run.programs.layers(wanted(run.body))
        room = program.room
        found += times * joules_in(manifest, Pieces(layers, EMBEDDING in run.stage.parts), Shape(room.sequences, room.rows, room.context))
    if run.head_rows:
        assert run.programs
        assert HEAD in run.stage.parts
        times, program = run.programs.head(run.head_rows)
        found += times * joules_in(manifest, Pieces(head=True), Shape(program.room.sequences, 1, 1))
    return found


def joules_in(manifest: Manifest, pieces: Pieces, shape: Shape) -> float:
    assert CORE
    parts = pieces.stage(Model.of(manifest).manifest).parts
    timing = time_program(unverified(manifest, parts, CORE, shape).program, CORE)
    by_operation = [sum(dynamic_joules(CORE, one.counts).values()) for one in timing.operators]
    return sum(by_operation)


async def test_describe_says_by_what_it_is_timed(tmp_path: Path) -> None:
    hardware = [SimulatedHardware(PROFILE, "fast", core=CORE), SimulatedHardware(load_profile("rk3588"), "fast")]
    async with agents(tmp_path, hardware) as (_, peers, _):
        told = [(await described(peer)).accelerator for peer in peers]
    assert [one.timed_by_programs for one in told] == [True, False]
    assert wire.core_of(told[0].core) == CORE
    assert not told[1].HasField("core")


async def test_a_stage_without_times_is_refused_in_one_line(tmp_path: Path) -> None:
    """From a coordinator that knows nothing of them."""
    manifest, store = tiny_model(tmp_path, TinyGlm())
    async with agents(tmp_path / "one", [SimulatedHardware(PROFILE, "fast", core=CORE)]) as (_, peers, _):
        (request,) = load_requests(manifest, [device_hop(peers[0])])
        for digest in request.blobs:
            await put_blob(peers[0], digest, store.blob_path(digest).read_bytes())  # type: ignore[arg-type]
        await refused(peers[0], request, "timed by programs, and was told of none")
        add_programs(request, manifest, store, await described(peers[0]))
        del request.times.layers[0].seconds[0]
        await refused(peers[0], request, "a stage's times are not those of programs")


async def described(peer: Peer) -> pb.DeviceDescription:
    return await peer.device_stub.Describe(pb.DescribeRequest(), metadata=peer.metadata)


async def refused(peer: Peer, request: pb.LoadStageRequest, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as caught, remote(peer.device):
        await peer.device_stub.LoadStage(request, metadata=peer.metadata)
    assert "\n" not in str(caught.value)


def device_hop(peer: Peer) -> pb.Hop:
    return pb.Hop(device_id=peer.device, address=peer.address)


def test_a_board_without_a_chip_cannot_be_timed_by_one() -> None:
    with pytest.raises(InvalidInput, match="profile raspberry-pi-5: it names no chip"):
        load_profile("raspberry-pi-5").run_as("compiled")


def test_wanted_rooms() -> None:
    assert wanted(Prefill(10, 6)).context == 16
    assert wanted(Decode((4, 9, 2))) == replace(wanted(Decode((9,))), sequences=3)
