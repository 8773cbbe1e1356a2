"""A stage at work: slot changes in order, usage to the last joule, and nothing wrong on the wire gets as far as the cache."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from device.engine.engine import Rows, Tokens
from device.engine.stage import StageEngine
from device.hardware import AcceleratorInfo, Condition, EnergyReading, RunReport, T
from device.pipeline.accounts import ModelledClock, Work
from device.pipeline.stage import Extra, Stage
from device.stage_spec import NextHop
from protos.errors import Unavailable
from protos.ids import DeviceId
from protos.physics.timing import Decode, Prefill, StageIdentity, StageRun
from protos.v1 import pipeline_pb2 as pb
from protos.v1 import telemetry_pb2
from tests.support.checkpoints import TinyGlm
from tests.support.stage_specs import TinyStages

SLOTS, CHUNK, CONTEXT = 4, 8, 20


class Fixed:
    """Computes at once; every run takes 2 s on the wall, 3 s of the model, and 5 J."""

    memory_bytes = 1 << 30

    def __init__(self, *, metered: bool = True, modelled: bool = True) -> None:
        self.report = RunReport(2.0, 3.0 if modelled else None, 5.0 if metered else None)
        self.runs: list[StageRun] = []
        self.brief: list[bool] = []
        source = telemetry_pb2.ENERGY_SOURCE_MODELLED if metered else telemetry_pb2.ENERGY_SOURCE_UNMETERED
        self.info = AcceleratorInfo("fixed", "", modelled, "fast" if modelled else "", 1, source)

    async def turn(self, function: Callable[[], T], *, brief: bool = False) -> T:
        self.brief.append(brief)
        return function()

    def run(self, run: StageRun, compute: Callable[[], None]) -> RunReport:
        self.runs.append(run)
        compute()
        return self.report

    def energy(self) -> EnergyReading:
        return EnergyReading(None, None, 0.0)

    def condition(self) -> Condition:
        return Condition()

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> TinyStages:
    return TinyStages.make(tmp_path_factory.mktemp("model"), TinyGlm(layers=2))


@pytest.fixture(scope="module")
def engine(stages: TinyStages) -> StageEngine:
    spec = stages.specs(2, context=CONTEXT, slots=SLOTS, chunk=CHUNK)[1]
    return StageEngine(spec, stages.blob_folder, 1)


@pytest.fixture
def make(stages: TinyStages, engine: StageEngine) -> Callable[..., Stage]:
    def made(**hardware: bool) -> Stage:
        spec = stages.specs(2, context=CONTEXT, slots=SLOTS, chunk=CHUNK)[1]
        stage = Stage(spec, engine, Fixed(**hardware), DeviceId("me"), ModelledClock())
        stage.free_all()
        return stage

    return made


@pytest.fixture
def stage(make: Callable[..., Stage]) -> Stage:
    return make()


def hidden(rows: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).standard_normal((rows, 72)).astype(np.float32)


def prefill(slot: int, sequence: int, rows: int = 4, *, start: int = 0, group: int = 0, **fields: object) -> pb.Microbatch:
    opened = [pb.Opened(slot=slot, sequence=sequence)] if start == 0 else []
    message = pb.Microbatch(group=group, prefill=True, slots=[slot], positions=[start], rows=rows, opened=opened, **fields)  # type: ignore[arg-type]
    message.hidden = hidden(rows).tobytes()
    return message


def decode(slots: list[int], positions: list[int], *, group: int = 0, **fields: object) -> pb.Microbatch:
    message = pb.Microbatch(group=group, slots=slots, positions=positions, rows=len(slots), all_wanted=True, **fields)  # type: ignore[arg-type]
    message.hidden = hidden(len(slots), 1).tobytes()
    return message


async def computed(stage: Stage, message: pb.Microbatch, rows: Rows | None = None) -> Rows:
    """What a step with rows gives."""
    result = await stage.step(message, rows)
    assert result is not None
    return result


def runs_of(stage: Stage) -> list[StageRun]:
    assert isinstance(stage.hardware, Fixed)
    return stage.hardware.runs


async def test_what_a_sequence_cost_is_told_with_its_release(stage: Stage) -> None:
    await stage.step(prefill(0, 11))
    await stage.step(prefill(1, 12, 2))
    await stage.step(decode([0, 1], [4, 2]))
    await stage.step(decode([1], [3]))
    assert stage.open_sequences == 2
    end = pb.Microbatch(released=[pb.Released(slot=1, sequence=12)])
    assert await stage.step(end) is None
    assert end.released[0].usage == [
        telemetry_pb2.StageUsage(
            device_id="me",
            stage=1,
            busy_seconds=2 + 1 + 2,
            modelled_busy_seconds=3 + 1.5 + 3,
            joules=5 + 2.5 + 5,
            source=telemetry_pb2.ENERGY_SOURCE_MODELLED,
            prefill_rows=2,
            decode_rows=2,
        )
    ]
    assert stage.open_sequences == 1
    counters = stage.counters
    assert (counters.prefill_tokens, counters.decode_tokens, counters.steps) == (6, 3, 4)
    assert (counters.busy_seconds, counters.modelled_busy_seconds, counters.busy_joules) == (8.0, 12.0, 20.0)


async def test_shares_add_up_to_the_whole(stage: Stage) -> None:
    for slot in range(3):
        await stage.step(prefill(slot, slot + 1))
    await stage.step(decode([0, 1, 2], [4, 4, 4]))
    end = pb.Microbatch(released=[pb.Released(slot=slot, sequence=slot + 1) for slot in range(3)])
    await stage.step(end)
    assert sum(item.usage[0].joules for item in end.released) == pytest.approx(stage.counters.busy_joules)
    assert sum(item.usage[0].busy_seconds for item in end.released) == pytest.approx(stage.counters.busy_seconds)


async def test_unmetered_joules_are_absent_not_zero(make: Callable[..., Stage]) -> None:
    stage = make(metered=False, modelled=False)
    await stage.step(prefill(0, 1))
    end = pb.Microbatch(released=[pb.Released(slot=0, sequence=1)])
    await stage.step(end)
    (usage,) = end.released[0].usage
    assert usage.source == telemetry_pb2.ENERGY_SOURCE_UNMETERED
    assert not usage.HasField("modelled_busy_seconds")


async def test_modelled_time_passes_from_stage_to_stage(stage: Stage) -> None:
    first, second = prefill(0, 1, modelled_at=10.0), prefill(1, 2, modelled_at=11.0)
    await stage.step(first)
    assert first.modelled_at == 13.0
    await stage.step(second)  # came while the accelerator was busy
    assert second.modelled_at == 16.0
    late = decode([0], [4], modelled_at=100.0)
    await stage.step(late)
    assert late.modelled_at == 103.0
    real = decode([0], [5])
    await stage.step(real)
    assert not real.HasField("modelled_at")


async def test_decode_turns_that_were_short_are_brief_in_a_ring(make: Callable[..., Stage]) -> None:
    ring = [False, False, False, True, True, True, False, False, False, True]
    for following, expected in ((NextHop(DeviceId("next"), ("127.0.0.1:1",)), ring), (None, [False] * len(ring))):
        stage = make()
        stage.spec = dataclasses.replace(stage.spec, next=following)
        hardware = stage.hardware
        assert isinstance(hardware, Fixed)
        await stage.step(prefill(0, 1))
        for position, seconds in ((4, 0.001), (5, 0.001), (6, 0.001), (7, 0.001)):
            hardware.report = dataclasses.replace(hardware.report, wall_seconds=seconds)
            await stage.step(decode([0], [position]))
        hardware.report = dataclasses.replace(hardware.report, wall_seconds=1.0)
        await stage.step(decode([0], [8]))
        hardware.report = dataclasses.replace(hardware.report, wall_seconds=0.001)
        await stage.extra(decode([0], [8]), 0, lambda: None)  # the output head alone says nothing of the layers
        for position in (9, 10, 11):
            await stage.step(decode([0], [position]))
        assert hardware.brief == expected


async def test_the_head_s_share_counts_no_token_twice(stage: Stage) -> None:
    await stage.step(prefill(0, 1))
    message = decode([0], [4])
    await stage.step(message)
    ran: list[bool] = []
    await stage.extra(message, 1, lambda: ran.append(True))
    assert ran
    assert (stage.counters.decode_tokens, stage.counters.steps, stage.counters.busy_joules) == (1, 3, 15.0)


async def test_the_device_s_joules_and_tokens_are_of_the_same_runs(stage: Stage) -> None:
    """An answer's tokens are the rows that the head wants back; what it computes of them at the end of the round is no other token."""
    await stage.step(prefill(0, 1, 3))
    await stage.step(prefill(0, 1, 2, start=3, wanted=[1]))
    message = decode([0], [5])
    await stage.step(message)
    await stage.extra(message, 1, lambda: None)
    reading = decode([0], [6])
    reading.all_wanted = False  # a forced token, or one of the prompt
    await stage.step(reading)
    assert stage.work.total == Work(5, 2, 2, 10.0, 15.0, 25.0)


async def test_of_a_prompt_that_is_read_whole_only_the_last_row_is_an_answer_s(stage: Stage) -> None:
    for message, answers in ((prefill(0, 1, 4), 0), (prefill(0, 1, 2, start=4, wanted=[1]), 1)):
        message.all_wanted = True
        await stage.step(message)
        assert stage.work.total.answer_tokens == answers


async def test_what_failed_requests_took_is_counted_with_their_tokens(stage: Stage) -> None:
    def given_up(_: Rows) -> None:
        stage.free_all()

    with pytest.raises(Unavailable, match="given up"):
        await stage.step(prefill(0, 1, wanted=[3]), None, Extra(1, given_up))
    assert (stage.work.total.prefill_tokens, stage.work.total.answer_tokens, stage.work.total.busy_joules) == (4, 1, 5.0)

    async def leave() -> None:
        asking = asyncio.create_task(stage.step(prefill(1, 2)))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])

    await leave()
    assert stage.work.total.busy_joules / 5.0 == stage.work.total.prefill_tokens / 4


async def test_a_sequence_that_never_ran_took_no_joules_of_a_metered_device(stage: Stage) -> None:
    """Cancelled between its opening and its first run: that is not work that nobody metered."""
    message = pb.Microbatch(opened=[pb.Opened(slot=0, sequence=1)])
    await stage.step(message)
    end = pb.Microbatch(released=[pb.Released(slot=0, sequence=1)])
    await stage.step(end)
    (usage,) = end.released[0].usage
    assert (usage.source, usage.joules, usage.busy_seconds) == (telemetry_pb2.ENERGY_SOURCE_MODELLED, 0.0, 0.0)


async def test_the_next_round_may_follow_the_head_s_share_in_one_turn(stage: Stage) -> None:
    row = np.full((1, stage.spec.shape.hidden_size), 0.5, np.float32)
    await stage.step(prefill(0, 1))
    apart = await computed(stage, decode([0], [4]), row)
    stage.free_all()
    await stage.step(prefill(0, 1))
    returned, after = decode([0], [3], modelled_at=50.0), decode([0], [4], modelled_at=0.0)
    more: list[tuple[pb.Microbatch, Rows | Tokens]] = [(after, row)]
    before = stage.counters.decode_tokens
    hidden = await stage.extra(returned, 1, lambda: None, lambda: more.pop() if more else None)
    assert hidden is not None
    assert np.array_equal(hidden, apart)
    assert stage.counters.decode_tokens == before + 1  # of the row that followed only
    assert (returned.modelled_at, after.modelled_at) == (53.0, 56.0)
    assert await stage.extra(decode([0], [4]), 1, lambda: None) is None


async def test_extra_runs_in_the_same_turn(stage: Stage) -> None:
    seen: list[Rows] = []
    result = await stage.step(prefill(0, 1), None, Extra(1, seen.append))
    assert seen[0] is result
    assert runs_of(stage) == [StageRun(stage.spec.cost, Prefill(0, 4), head_rows=1, stage=stage.spec.identity)]


async def test_the_accelerator_is_told_of_each_run_what_it_takes(stage: Stage) -> None:
    """Rows and where they stand, the output head's, and the bytes that leave: of the last stage only the rows that are wanted."""
    row_bytes = 4 * stage.spec.shape.hidden_size
    await stage.step(prefill(0, 1, wanted=[3]))
    await stage.step(prefill(1, 2, 2))
    await stage.step(decode([0, 1], [4, 2]))
    await stage.extra(decode([0, 1], [5, 3]), 2, lambda: None)
    cost, which = stage.spec.cost, StageIdentity(stage.spec.manifest, ("positions", "layers.1"), "float32")
    assert runs_of(stage) == [
        StageRun(cost, Prefill(0, 4), link_bytes=row_bytes, stage=which),
        StageRun(cost, Prefill(0, 2), stage=which),
        StageRun(cost, Decode((4, 2)), link_bytes=2 * row_bytes, stage=which),
        StageRun(cost, head_rows=2, stage=which),
    ]


async def test_rounds_that_follow_in_one_turn_are_those_of_turns_of_their_own(stage: Stage) -> None:
    rows = [np.full((1, stage.spec.shape.hidden_size), value, np.float32) for value in (0.5, -0.25)]
    await stage.step(prefill(0, 1))
    apart = [await computed(stage, decode([0], [4 + number]), row) for number, row in enumerate(rows)]
    stage.free_all()
    await stage.step(prefill(0, 1))
    first, second = decode([0], [4], modelled_at=50.0), decode([0], [5], modelled_at=0.0)
    hidden: list[Rows] = []
    more: list[tuple[pb.Microbatch, Rows | Tokens]] = [(second, rows[1])]
    before = stage.counters.decode_tokens
    last = await stage.step(first, rows[0], Extra(0, lambda made: hidden.append(made.copy())), lambda: more.pop() if more else None)
    assert np.array_equal(hidden, apart)
    assert last is not None
    assert np.array_equal(last, apart[1])
    assert stage.counters.decode_tokens == before + 2
    assert (first.modelled_at, second.modelled_at) == (53.0, 56.0)  # the second begins when the first has ended


async def test_released_swapped_opened_copied_in_this_order(stage: Stage) -> None:
    await stage.step(prefill(0, 1))
    alone = await computed(stage, decode([0], [4]))
    stage.free_all()
    for slot in range(4):
        await stage.step(prefill(slot, slot + 1, 4 if slot == 3 else 2))
    # Slot 0 is released, 3 changes places with it, a new one is opened in 3 on the rows that 0 had, and then gets 4 rows of slot 0.
    message = decode([0], [4], released=[pb.Released(slot=0, sequence=1)], swapped=[pb.Swapped(from_slot=3, to_slot=0)])
    message.opened.add(slot=3, sequence=9, kept=2)
    message.copied.add(from_slot=0, to_slot=3, rows=4)
    assert np.array_equal(await computed(stage, message), alone)
    assert stage.engine.groups[0].lengths == [5, 2, 2, 4]
    # A row after copied rows is a row after rows of its own.
    assert np.array_equal(await computed(stage, decode([3], [4])), alone)
    end = pb.Microbatch(released=[pb.Released(slot=0, sequence=4), pb.Released(slot=3, sequence=9)])
    await stage.step(end)
    assert (end.released[0].usage[0].prefill_rows, end.released[0].usage[0].decode_rows) == (4, 1)
    assert end.released[1].usage[0].prefill_rows == 0


async def test_rows_kept_in_a_slot_serve_the_next_prompt(stage: Stage) -> None:
    await stage.step(prefill(0, 1))
    alone = await computed(stage, decode([0], [4]))
    again = decode([0], [4], released=[pb.Released(slot=0, sequence=1)])
    again.opened.add(slot=0, sequence=2, kept=4)
    assert np.array_equal(await computed(stage, again), alone)


async def test_a_new_ring_knows_none_of_the_sequences_before(stage: Stage) -> None:
    await stage.join_ring("one")
    await stage.step(prefill(0, 1))
    stage.leave_ring()
    assert stage.orphaned_since
    assert stage.open_sequences == 0
    await stage.join_ring("two")
    assert not stage.orphaned_since
    assert (stage.open_sequences, stage.engine.groups[0].lengths) == (0, [0] * SLOTS)
    await stage.step(prefill(0, 1))


async def test_what_was_freed_while_it_ran_is_told(stage: Stage) -> None:
    def given_up(_: Rows) -> None:
        stage.free_all()

    with pytest.raises(Unavailable, match="given up"):
        await stage.step(prefill(0, 1), None, Extra(0, given_up))


async def test_unloaded_ends_those_who_wait_for_it(stage: Stage) -> None:
    assert not stage.is_unloaded
    stage.unload()
    with pytest.raises(Unavailable, match="stage 1 of pipeline test-1 was unloaded"):
        await stage.unloaded()


def test_a_real_device_s_runs_count_at_their_wall_time() -> None:
    clock = ModelledClock()
    assert clock.occupy(5.0, RunReport(2.0, None, None)) == 7.0
    assert clock.occupy(0.0, RunReport(2.0, 0.5, None)) == 7.5
