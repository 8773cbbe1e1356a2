"""Rows of a ring that broke: brought to the places that the head names, never given to another."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.pipeline.accounts import Usage
from device.pipeline.kept import MOST_KEY_BYTES, Kept, KeptRows, parse_kept
from device.pipeline.scheduler import Scheduler
from device.pipeline.sequences import Request, Sequence, Step
from protos.errors import InvalidInput
from protos.even import even_down
from protos.v1 import pipeline_pb2 as pb

GROUPS, SLOTS = 2, 4
PLACES = [(group, slot) for group in range(GROUPS) for slot in range(SLOTS)]


@dataclass
class Rows:
    """A group whose slots hold lists."""

    slots: list[list[int]]
    lengths: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)  # none are

    def free_all(self) -> None:
        self.lengths = [0] * len(self.lengths)

    def swap(self, one: int, other: int, group: Rows | None = None) -> None:
        group = group or self
        self.slots[one], group.slots[other] = group.slots[other], self.slots[one]
        self.lengths[one], group.lengths[other] = group.lengths[other], self.lengths[one]

    def copy(self, source: int, target: int, rows: int) -> None:
        raise NotImplementedError

    def rows(self, slot: int, start: int, stop: int) -> bytes:
        raise NotImplementedError

    def put(self, slot: int, start: int, count: int, data: bytes) -> None:
        raise NotImplementedError


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    here=st.permutations(PLACES).map(lambda places: places[:5]),
    there=st.permutations(PLACES).map(lambda places: places[:6]),
    lengths=st.lists(st.integers(0, 4), min_size=5, max_size=5),
    others=st.lists(st.integers(1, 4), min_size=6, max_size=6),
)
def test_every_stage_has_them_where_the_head_has(
    here: list[tuple[int, int]], there: list[tuple[int, int]], lengths: list[int], others: list[int]
) -> None:
    """Keys 0 to 4 are here, 1 to 6 are wanted."""
    groups = [Rows([[] for _ in range(SLOTS)], [0] * SLOTS) for _ in range(GROUPS)]
    kept = Kept()
    for key, ((group, slot), length) in enumerate(zip(here, lengths, strict=True)):
        kept.put(bytes([key]), group, slot, Usage(key))
        groups[group].slots[slot], groups[group].lengths[slot] = [key] * length, length
    wanted = [KeptRows(bytes([key + 1]), *place, rows) for key, (place, rows) in enumerate(zip(there, others, strict=True))]
    agreed = kept.arrange(groups, wanted)
    assert {one.key: (one.place, one.rows) for one in agreed} == {
        one.key: (one.place, min(one.rows, lengths[one.key[0]])) for one in wanted if one.key[0] < 5 and lengths[one.key[0]]
    }
    assert dict(kept) == {one.key: one.place for one in agreed}
    for group, slot in PLACES:
        owner = next((one.key[0] for one in agreed if one.place == (group, slot)), None)
        assert groups[group].lengths[slot] == (0 if owner is None else lengths[owner])
        assert owner is None or groups[group].slots[slot] == [owner] * lengths[owner]
    where_they_are = {KeptRows(key, *place, lengths[key[0]]) for key, place in kept}
    assert set(kept.arrange(groups, None)) == where_they_are


def test_a_slot_is_of_one_key_and_a_key_in_one_slot() -> None:
    kept = Kept()
    kept.put(b"a", 0, 1, None)
    kept.put(b"b", 0, 1, Usage(7))
    kept.put(b"b", 1, 2, Usage(8))
    assert dict(kept) == {b"b": (1, 2)}
    assert kept.take(0, 1) is None
    taken = kept.take(1, 2)
    assert taken is not None
    assert (taken[0], taken[1] and taken[1].number) == (b"b", 8)
    assert len(kept) == 0


@pytest.mark.parametrize(
    "messages",
    [
        [pb.KeptRows(key=b"a", group=GROUPS)],
        [pb.KeptRows(key=b"a", slot=SLOTS)],
        [pb.KeptRows()],
        [pb.KeptRows(key=b"a" * (MOST_KEY_BYTES + 1))],
        [pb.KeptRows(key=b"a"), pb.KeptRows(key=b"a", slot=1)],
        [pb.KeptRows(key=b"a"), pb.KeptRows(key=b"b")],
    ],
)
def test_what_contradicts_itself_is_refused(messages: list[pb.KeptRows]) -> None:
    with pytest.raises(InvalidInput, match="contradict each other"):
        parse_kept(messages, GROUPS, SLOTS)


@pytest.mark.parametrize(
    ("prompt", "known", "prefix", "rows", "stay"),
    [
        (10, 0, 0, 7, 6),  # chunks begin at even rows
        (10, 0, 0, 10, 8),  # the last row's logits are wanted
        (10, 1, 0, 10, 10),
        (10, 1, 0, 12, 10),  # tokens that nobody was told of are computed again
        (10, 4, 0, 12, 12),
        (10, 4, 0, 13, 13),
        (10, 4, 0, 99, 13),
        (1, 0, 0, 1, 0),
        (10, 0, 6, 5, 0),  # a prefix is one run
        (10, 0, 6, 7, 7),
        (10, 0, 6, 10, 9),
        (10, 3, 6, 11, 11),
    ],
)
def test_how_many_rows_of_an_attempt_may_stay(prompt: int, known: int, prefix: int, rows: int, stay: int) -> None:
    assert Request(tuple(range(prompt)), tuple(range(known)), prefix=prefix).kept(rows) == stay


def told(prompt: tuple[int, ...], position: int) -> int:
    """What the "model" says: a function of the prompt and the position alone."""
    return (sum(prompt) * 31 + position * 17) % 50


class Ring:
    """Plays the stages: what lies in each slot. `run` it for some steps, in turn by group."""

    def __init__(self, kept: dict[bytes, KeptRows], rows: dict[tuple[int, int], list[int]]) -> None:
        self.scheduler = Scheduler(GROUPS, SLOTS, 200, 8)
        self.rows = rows
        self.keys: dict[tuple[int, int], bytes] = {}
        self.computed = 0
        self._kept = kept

    def submit(self, requests: list[Request]) -> list[Sequence]:
        """Some before the ring stands, and some when it does."""
        half = len(requests) // 2
        sequences = [self.scheduler.submit(request) for request in requests[:half]]
        self.scheduler.keep(self._kept.values())
        return [*sequences, *(self.scheduler.submit(request) for request in requests[half:])]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            flying = []
            while step := self.scheduler.next_step():
                self._apply(step)
                flying.append(step)
            for step in flying:
                said = {one: [told(one.request.prompt_ids, len(one.request.prompt_ids) + len(one.answer))] for one in step.wanted}
                self.scheduler.complete(step, said)

    def _apply(self, step: Step) -> None:
        here = {slot: (step.group, slot) for slot in range(SLOTS)}
        for slot, _ in step.released:
            self.keys.pop(here[slot], None)
        for one, other in step.swapped:
            for table in (self.rows, self.keys):
                table[here[one]], table[here[other]] = table.get(here[other]), table.get(here[one])  # type: ignore[assignment]
        for slot, sequence, kept in step.opened:
            self.rows[here[slot]] = (self.rows.get(here[slot]) or [])[:kept]
            self.keys[here[slot]] = sequence.request.key
        for source, target, rows in step.copied:
            self.rows[here[target]] = (self.rows[here[source]] or [])[:rows]
        for index, sequence in enumerate(step.sequences):
            held = self.rows[here[sequence.slot]]
            assert len(held) == step.positions[0 if step.prefill else index]
            held.extend(step.tokens if step.prefill else [step.tokens[index]])
            self.computed += len(step.tokens) if step.prefill else 1
            whole = (*sequence.request.prompt_ids, *sequence.answer)
            assert tuple(held) == whole[: len(held)]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    prompts=st.lists(st.integers(1, 30), min_size=1, max_size=10),
    steps=st.integers(0, 25),
    lost=st.lists(st.integers(0, 6), min_size=8, max_size=8),
    strangers=st.integers(0, 3),
    most_replayed=st.none() | st.integers(0, 4),
)
def test_whoever_asks_again_goes_on_behind_what_is_kept(
    prompts: list[int], steps: int, lost: list[int], strangers: int, most_replayed: int | None
) -> None:
    requests = [
        Request(tuple(range(100 * number, 100 * number + length)), max_tokens=12, key=bytes([number]))
        for number, length in enumerate(prompts, 1)
    ]
    before = Ring({}, {})
    first = before.submit(requests)
    before.run(steps)
    kept = {}
    for place, key in before.keys.items():
        if key:
            rows = len(before.rows[place]) - lost[len(kept)]  # some stage has fewer of them
            if rows > 0:
                kept[key] = KeptRows(key, *place, rows)
    again = [
        Request(one.request.prompt_ids, tuple(one.answer), max_tokens=12, key=one.request.key, most_replayed=most_replayed)
        for one in first
        if one.ending is None
    ]
    others = [Request(tuple(range(5000 + 100 * number, 5020 + 100 * number)), max_tokens=3) for number in range(strangers)]
    after = Ring(kept, before.rows)
    sequences = after.submit([*again, *others])
    after.run(200)
    for sequence in sequences:
        prompt = sequence.request.prompt_ids
        assert sequence.answer == [told(prompt, len(prompt) + index) for index in range(sequence.request.max_tokens)]
    whole = sum(len(one.request.prompt_ids) + one.request.max_tokens - 1 for one in sequences)
    stay = 0
    for one in again:
        rows = one.kept(kept[one.key].rows) if one.key in kept else 0
        stay += even_down(rows) if one.prefills_forced(rows) else rows
    if room := len(again) + strangers <= GROUPS * SLOTS:
        for one, sequence in zip(again, sequences, strict=False):
            rows = one.kept(kept[one.key].rows) if one.key in kept else 0
            decoded_before = max(0, len(one.forced_ids) - 1 - max(0, rows - len(one.prompt_ids)))
            assert bool(sequence.forced_prefilled) == (most_replayed is not None and decoded_before > most_replayed)
    assert after.computed == whole - stay if room else whole - stay <= after.computed <= whole
