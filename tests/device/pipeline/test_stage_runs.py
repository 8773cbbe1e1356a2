"""A stage that decodes by runs: what it counts of drafts that were not taken, what it keeps, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from device.engine.stage import StageEngine
from device.pipeline.accounts import ModelledClock, Usage
from device.pipeline.stage import Stage
from device.stage_spec import StageSpec
from protos.decoding import DecodeMode
from protos.errors import InvalidInput
from protos.ids import DeviceId
from protos.physics.timing import Decode
from protos.v1 import pipeline_pb2 as pb
from tests.device.pipeline.test_stage import CHUNK, CONTEXT, SLOTS, Fixed, hidden, prefill
from tests.support.checkpoints import TinyGlm
from tests.support.stage_specs import TinyStages


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[DecodeMode], tuple[StageSpec, StageEngine]]:
    stages = TinyStages.make(tmp_path_factory.mktemp("model"), TinyGlm(layers=2))

    def of(decode: DecodeMode) -> tuple[StageSpec, StageEngine]:
        spec = stages.specs(2, context=CONTEXT, slots=SLOTS, chunk=CHUNK, decode=decode)[1]
        return spec, StageEngine(spec, stages.blob_folder, 1)

    return of


@pytest.fixture
def stage(specs: Callable[[DecodeMode], tuple[StageSpec, StageEngine]]) -> Stage:
    spec, engine = specs("pairs")
    return Stage(spec, engine, Fixed(), DeviceId("me"), ModelledClock())


def run(slots: list[int], starts: list[int], counts: list[int]) -> pb.Microbatch:
    rows = sum(counts)
    message = pb.Microbatch(slots=slots, positions=starts, counts=counts, rows=rows, all_wanted=True)
    message.hidden = hidden(rows, 1).tobytes()
    return message


async def test_rows_of_drafts_that_were_not_taken_are_counted_apart_and_not_kept(stage: Stage) -> None:
    opened = prefill(0, 11)
    opened.opened[0].key = b"key"
    await stage.step(opened)
    await stage.step(run([0], [4], [3]))
    group = stage.engine.groups[0]
    assert (group.lengths[0], group.drafted[0]) == (5, 2)
    await stage.step(run([0], [5], [2]))
    assert stage.counters.rejected_tokens == 2
    assert stage.counters.decode_tokens == 5
    end = pb.Microbatch(released=[pb.Released(slot=0, sequence=11, keep=True, rows=7)])
    await stage.step(end)
    (usage,) = end.released[0].usage
    assert (usage.decode_rows, usage.rejected_rows) == (5, 2)
    assert usage.joules == 5.0 * 3
    assert usage.joules_rejected == pytest.approx(5.0 * 2 / 3)
    assert stage.work.total.answer_tokens == 3  # two that were known to come, and the draft that held
    assert (group.lengths[0], group.drafted[0]) == (7, 0)


async def test_a_ring_that_breaks_keeps_no_draft(stage: Stage) -> None:
    opened = prefill(0, 11)
    opened.opened[0].key = b"key"
    await stage.step(opened)
    await stage.step(run([0], [4], [3]))
    stage.leave_ring()
    assert [(one.key, one.rows) for one in await stage.join_ring("next")] == [(b"key", 5)]


async def test_modelled_time_has_the_row_that_pads_a_run(stage: Stage) -> None:
    await stage.step(prefill(0, 11))
    await stage.step(prefill(1, 12, 2))
    await stage.step(run([0, 1], [4, 2], [3, 1]))
    assert isinstance(stage.hardware, Fixed)
    assert stage.hardware.runs[-1].body == Decode((4, 5, 6, 7, 2, 3))


@pytest.mark.parametrize(
    ("slots", "starts", "counts", "why"),
    [
        ([0], [6], [1], "a run of"),
        ([0], [4], [17], "contradict"),
        ([0], [4], [0], "contradict"),
        ([0, 1], [4], [1, 1], "contradict"),
        ([1, 0], [2, 4], [1, 1], "contradict"),
        ([2], [0], [1], "nothing open"),
    ],
)
async def test_runs_that_contradict_themselves_are_refused(
    stage: Stage, slots: list[int], starts: list[int], counts: list[int], why: str
) -> None:
    await stage.step(prefill(0, 11))
    await stage.step(prefill(1, 12, 2))
    message = run(slots, starts, counts) if sum(counts) else pb.Microbatch(slots=slots, positions=starts, counts=counts, rows=1)
    if not message.hidden:
        message.hidden = hidden(1).tobytes()
    with pytest.raises(InvalidInput, match=why):
        await stage.step(message)


async def test_each_way_to_decode_refuses_the_others_steps(
    specs: Callable[[DecodeMode], tuple[StageSpec, StageEngine]], stage: Stage
) -> None:
    alone = pb.Microbatch(slots=[0], positions=[4], rows=1, hidden=np.zeros((1, 72), np.float32).tobytes())
    spec, engine = specs("rows")
    by_rows = Stage(spec, engine, Fixed(), DeviceId("me"), ModelledClock())
    for one, message in ((stage, alone), (by_rows, run([0], [4], [2]))):
        await one.step(prefill(0, 11))
        with pytest.raises(InvalidInput, match="contradict"):
            await one.step(message)


def test_what_was_asked_once_is_not_counted_again() -> None:
    usage = Usage(1)
    assert usage.settled(5) == (0, 0)
