"""A stage at work: slot changes in order, usage to the last joule, and nothing wrong on the wire gets as far as the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.engine.stage import Rows, StageEngine, Tokens
from device.hardware import AcceleratorInfo, Condition, EnergyReading, RunReport, T
from device.pipeline.accounts import ModelledClock
from device.pipeline.stage import Extra, Stage
from device.stage_spec import Hop
from protos.errors import InvalidInput, Unavailable
from protos.ids import DeviceId
from protos.physics.timing import Decode, Prefill, StageRun
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
    for following, expected in ((Hop(DeviceId("next"), "127.0.0.1:1"), ring), (None, [False] * len(ring))):
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
    assert runs_of(stage) == [StageRun(stage.spec.cost, Prefill(0, 4), head_rows=1)]


async def test_the_accelerator_is_told_of_each_run_what_it_takes(stage: Stage) -> None:
    """Rows and where they stand, the output head's, and the bytes that leave: of the last stage only the rows that are wanted."""
    row_bytes = 4 * stage.spec.shape.hidden_size
    await stage.step(prefill(0, 1, wanted=[3]))
    await stage.step(prefill(1, 2, 2))
    await stage.step(decode([0, 1], [4, 2]))
    await stage.extra(decode([0, 1], [5, 3]), 2, lambda: None)
    cost = stage.spec.cost
    assert runs_of(stage) == [
        StageRun(cost, Prefill(0, 4), link_bytes=row_bytes),
        StageRun(cost, Prefill(0, 2)),
        StageRun(cost, Decode((4, 2)), link_bytes=2 * row_bytes),
        StageRun(cost, head_rows=2),
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


def bad(change: Callable[[pb.Microbatch], object], message: pb.Microbatch | None = None) -> pb.Microbatch:
    # Slots 0 and 1 are open, with 4 and 2 rows.
    message = message or decode([0, 1], [4, 2])
    change(message)
    return message


HUGE = 2**32 - 1
WRONG = {
    "group": bad(lambda m: setattr(m, "group", 2)),
    "group huge": bad(lambda m: setattr(m, "group", HUGE)),
    "payload short": bad(lambda m: setattr(m, "hidden", m.hidden[:-1])),
    "payload long": bad(lambda m: setattr(m, "hidden", m.hidden + b"1234")),
    "payload empty": bad(lambda m: setattr(m, "hidden", b"")),
    "rows huge": bad(lambda m: setattr(m, "rows", HUGE)),
    "one row for two slots": bad(lambda m: (setattr(m, "rows", 1), setattr(m, "hidden", m.hidden[: 72 * 4]))),
    "slot closed": decode([2], [0]),
    "slot beyond": decode([4], [0]),
    "slot huge": decode([0, HUGE], [4, 0]),
    "slots descending": decode([1, 0], [2, 4]),
    "slot twice": decode([0, 0], [4, 4]),
    "no slots": bad(lambda m: (m.ClearField("slots"), m.ClearField("positions"))),
    "positions missing": bad(lambda m: m.positions.pop()),
    "position behind": decode([0, 1], [3, 2]),
    "position ahead": decode([0, 1], [5, 2]),
    "position huge": decode([0, 1], [4, HUGE]),
    "prefill closed": bad(lambda m: m.ClearField("opened"), prefill(2, 9)),
    "prefill two slots": bad(lambda m: m.slots.append(1), prefill(0, 1, start=4)),
    "prefill no slot": bad(lambda m: m.ClearField("slots"), prefill(0, 1, start=4)),
    "prefill no position": bad(lambda m: m.ClearField("positions"), prefill(0, 1, start=4)),
    "prefill elsewhere": prefill(0, 1, start=2),
    "prefill far": prefill(0, 1, start=HUGE),
    "prefill too long": prefill(2, 9, CHUNK + 2),
    "wanted beyond": bad(lambda m: m.wanted.append(2)),
    "wanted twice": bad(lambda m: m.wanted.extend([1, 1])),
    "release of another": pb.Microbatch(released=[pb.Released(slot=0, sequence=2)]),
    "release of nothing": pb.Microbatch(released=[pb.Released(slot=2, sequence=1)]),
    "release huge": pb.Microbatch(released=[pb.Released(slot=HUGE, sequence=1)]),
    "release twice": pb.Microbatch(released=[pb.Released(slot=0, sequence=1)] * 2),
    "swap onto another": pb.Microbatch(swapped=[pb.Swapped(from_slot=0, to_slot=1)]),
    "swap onto itself": pb.Microbatch(swapped=[pb.Swapped(from_slot=0, to_slot=0)]),
    "swap beyond": pb.Microbatch(swapped=[pb.Swapped(from_slot=0, to_slot=4)]),
    "swap huge": pb.Microbatch(swapped=[pb.Swapped(from_slot=HUGE, to_slot=2)]),
    "keep what is not there": pb.Microbatch(opened=[pb.Opened(slot=2, sequence=9, kept=1)]),
    "copy more than there is": pb.Microbatch(copied=[pb.Copied(from_slot=0, to_slot=1, rows=5)]),
    "copy to a closed slot": pb.Microbatch(copied=[pb.Copied(from_slot=0, to_slot=2, rows=2)]),
    "copy beyond": pb.Microbatch(copied=[pb.Copied(from_slot=0, to_slot=4, rows=2)]),
    "copy huge": pb.Microbatch(copied=[pb.Copied(from_slot=HUGE, to_slot=1, rows=2)]),
    "open over another": pb.Microbatch(opened=[pb.Opened(slot=0, sequence=9)]),
    "open beyond": pb.Microbatch(opened=[pb.Opened(slot=4, sequence=9)]),
    "open huge": pb.Microbatch(opened=[pb.Opened(slot=HUGE, sequence=9)]),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_does_not_fit_is_refused_and_touches_no_other(stage: Stage, name: str) -> None:
    await stage.step(prefill(0, 1, 4))
    await stage.step(prefill(1, 2, 2))
    before = caches(stage)
    message = pb.Microbatch()
    message.CopyFrom(WRONG[name])
    with pytest.raises(InvalidInput) as refused:
        await stage.step(message)
    assert "\n" not in refused.value.detail
    assert stage.engine.groups[0].lengths[:2] in ([4, 2], [0, 2])  # the first of two releases was one
    assert all(np.array_equal(one, other) for one, other in zip(before, caches(stage), strict=True))


def caches(stage: Stage) -> list[np.ndarray]:
    assert isinstance(stage.engine, StageEngine)
    return [value.numpy().copy() for group in stage.engine.groups for _, _, value in group.bound(0, SLOTS)]


small = st.integers(0, 5) | st.sampled_from([CONTEXT, 2**31, HUGE])
microbatches = st.builds(
    lambda kind, group, slots, positions, rows, wanted, released, swapped, opened, copied, payload: pb.Microbatch(
        prefill=kind,
        group=group,
        slots=slots,
        positions=positions,
        rows=rows,
        wanted=wanted,
        released=[pb.Released(slot=slot, sequence=number) for slot, number in released],
        swapped=[pb.Swapped(from_slot=source, to_slot=target) for source, target in swapped],
        opened=[pb.Opened(slot=slot, sequence=number, kept=kept) for slot, number, kept in opened],
        copied=[pb.Copied(from_slot=source, to_slot=target, rows=rows) for source, target, rows in copied],
        hidden=hidden(payload).tobytes(),
    ),
    st.booleans(),
    st.integers(0, 2),
    st.lists(small, max_size=3),
    st.lists(small, max_size=3),
    small,
    st.lists(small, max_size=2),
    *(st.lists(st.tuples(small, small), max_size=2) for _ in range(2)),
    *(st.lists(st.tuples(small, small, small), max_size=2) for _ in range(2)),
    st.integers(0, 5),
)


def next_rows(stage: Stage, prefills: bool) -> pb.Microbatch:
    """What fits when slots 0 and 1 are open: two more rows of slot 0, or one of each."""
    lengths = stage.engine.groups[0].lengths
    return prefill(0, 1, 2, start=lengths[0]) if prefills else decode([0, 1], lengths[:2])


def lengths_of(stage: Stage) -> list[list[int]]:
    return [list(group.lengths) for group in stage.engine.groups]


def lengths_after(message: pb.Microbatch, before: list[list[int]]) -> list[list[int]]:
    """What slots hold once its rows were computed: they go to the end of each slot, in order of slots. Fails for others."""
    after = [list(lengths) for lengths in before]
    assert list(message.slots) == sorted(set(message.slots))
    for slot, position in zip(message.slots, message.positions, strict=True):
        assert after[message.group][slot] == position
        after[message.group][slot] += message.rows if message.prefill else 1
    return after


def with_fields(message: pb.Microbatch, other: pb.Microbatch, names: set[str]) -> pb.Microbatch:
    """`message` with these fields as `other` has them."""
    changed, taken = pb.Microbatch(), pb.Microbatch()
    changed.CopyFrom(message)
    taken.CopyFrom(other)
    for field in pb.Microbatch.DESCRIPTOR.fields:
        (changed if field.name in names else taken).ClearField(field.name)
    changed.MergeFrom(taken)
    return changed


FIELDS = ("group", "slots", "positions", "rows", "wanted", "released", "swapped", "opened", "copied", "hidden", "prefill")
# (what fits is a prefill; the fields in which what is sent is another message instead; that message)
changes = st.tuples(st.booleans(), st.sets(st.sampled_from(FIELDS), max_size=2), microbatches)


@settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(changes | st.tuples(st.booleans(), st.just(set(FIELDS)), microbatches), min_size=1, max_size=12))
async def test_random_microbatches_are_carried_out_or_refused(stage: Stage, sent: list[tuple[bool, set[str], pb.Microbatch]]) -> None:
    """Most of them all but fit: others are refused before they get anywhere."""
    stage.free_all()
    fresh = (await computed(stage, prefill(0, 1))).copy()
    await stage.step(prefill(1, 2, 2))
    fits = True  # until something else was sent
    for prefills, fields, other in sent:
        message = with_fields(next_rows(stage, prefills), other, fields)
        before = lengths_of(stage)
        fits = fits and not fields and max(before[0]) + 2 <= CONTEXT
        try:
            result = await stage.step(message)
        except InvalidInput:
            assert not fits
            continue
        if not (message.released or message.swapped or message.opened or message.copied):
            assert lengths_of(stage) == (lengths_after(message, before) if message.rows else before)
        assert (result is None) == (not message.rows)
        assert result is None or (len(result) == message.rows and np.isfinite(result).all())
        for lengths in lengths_of(stage):
            assert len(lengths) == SLOTS
            assert all(0 <= length <= CONTEXT for length in lengths)
    stage.free_all()
    assert np.array_equal(await computed(stage, prefill(0, 1)), fresh)


async def test_a_new_ring_knows_none_of_the_sequences_before(stage: Stage) -> None:
    stage.join_ring("one")
    await stage.step(prefill(0, 1))
    stage.leave_ring()
    assert stage.orphaned_since is not None
    stage.join_ring("one")
    assert (stage.open_sequences, stage.orphaned_since) == (1, None)
    stage.join_ring("two")
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
