"""Microbatches that do not fit a stage: refused, whatever they hold, and no other sequence touched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.engine.stage import StageEngine, bound_caches
from device.pipeline.stage import Stage
from protos.errors import InvalidInput
from protos.v1 import pipeline_pb2 as pb
from tests.device.pipeline.test_stage import CHUNK, CONTEXT, SLOTS, computed, decode, engine, hidden, make, prefill, stage, stages  # noqa: F401 (fixtures)


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
    return [value.numpy().copy() for group in stage.engine.groups for _, _, value in bound_caches(group, 0, SLOTS)]


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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
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
