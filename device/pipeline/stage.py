"""A loaded stage at work: slot changes and runs in the order they come, and what each sequence cost."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from device.engine.engine import Engine, Rows, Tokens
from device.hardware import Hardware, RunReport
from device.pipeline.accounts import ModelledClock, StageCounters, Usage, WorkCounter
from device.pipeline.doubts import Doubts
from device.pipeline.kept import MOST_KEY_BYTES, Kept, KeptRows
from device.pipeline.wire import decode
from device.stage_spec import NextHop, StageSpec
from protos.decoding import MOST_RUN_ROWS
from protos.dtypes import row_bytes
from protos.errors import Conflict, InvalidInput, Unavailable
from protos.even import even_up
from protos.ids import DeviceId
from protos.physics.timing import Decode, Prefill, StageRun
from protos.v1 import pipeline_pb2, telemetry_pb2

# Decode turns of a ring are brief (see Hardware.turn) where the last ones were over sooner than this: the way to the computing thread and
# back is 40 % of a small model's hop. Nobody who waits for the event loop meanwhile sees so little.
BRIEF_SECONDS = 0.02


# Called within a turn after a run: the microbatch that is to run next in the same turn, with what enters the layers.
Following = Callable[[], tuple[pipeline_pb2.Microbatch, Rows | Tokens] | None]


@dataclass(frozen=True)
class Extra:
    """The output head's computation on `rows` of a run's hidden rows, where it belongs to the run; of runs with drafts on all that there
    are."""

    rows: int
    compute: Callable[[Rows], None]


@dataclass
class Stage:
    """One stage of one pipeline on this device. One step at a time: the caller keeps the order."""

    spec: StageSpec
    engine: Engine
    hardware: Hardware
    device: DeviceId
    clock: ModelledClock
    work: WorkCounter = field(default_factory=WorkCounter)  # of the device: its stages share one
    counters: StageCounters = field(default_factory=StageCounters)
    doubts: Doubts = field(default_factory=Doubts)  # of the device, as `work`
    kept: Kept = field(default_factory=Kept)  # of sequences whose ring broke
    ring_id: str = ""
    # Since when no ring reaches this stage though it holds rows of sequences; None while one does.
    orphaned_since: float | None = None
    _slots: dict[tuple[int, int], Usage] = field(default_factory=dict)
    _unloaded: asyncio.Event = field(default_factory=asyncio.Event)
    # Of the last two decode turns in which the layers ran: at a ring's head alone and behind the output head.
    _decode_seconds: tuple[float, float] = (math.inf, math.inf)

    @property
    def open_sequences(self) -> int:
        return len(self._slots)

    def is_busy(self) -> bool:
        return bool(self._slots)

    def aim(self, following: NextHop | None) -> None:
        """The next ring is built over this hop; what stands is left as it is."""
        self.spec = replace(self.spec, next=following)

    def go_on_as(self, spec: StageSpec) -> None:
        """`spec` is this stage's but for the generation of its deployment and its neighbours; as `aim` else."""
        self.spec = spec

    def moved(self, spec: StageSpec) -> Stage:
        """The same stage in another ring, with the weights and rows that are here; this one is unloaded."""
        self.unload()
        self.set_aside()
        stage = Stage(spec, self.engine, self.hardware, self.device, self.clock, self.work, self.counters, self.doubts, self.kept)
        stage.leave_ring()  # none reaches it yet
        return stage

    async def join_ring(self, ring_id: str, wanted: Iterable[KeptRows] | None = None) -> tuple[KeptRows, ...]:
        """A ring built anew knows none of the sequences before it. Of their rows those stay that are `wanted`, in the slots it names (None:
        all, where they are). What is kept; all else is freed. Raises Conflict when a newer ring came meanwhile."""
        kept: tuple[KeptRows, ...] = ()
        self.orphaned_since = None
        if ring_id != self.ring_id:
            self.ring_id = ring_id
            self.set_aside()
            if len(self.kept):  # behind a run of the ring before, which was given up and may not be over
                kept = await self.hardware.turn(lambda: self.kept.arrange(self.engine.groups, wanted))
            else:
                self.free_all()
        if self.ring_id != ring_id:
            raise Conflict(f"stage {self.spec.stage} belongs to a newer ring")
        return kept

    def leave_ring(self) -> None:
        """The ring broke, and nobody may ever build another: nothing is open any more."""
        self.set_aside()
        self.orphaned_since = time.monotonic()

    def set_aside(self) -> None:
        """The ring broke: sequences are open no longer, and the rows of those that have a key are kept."""
        for (group, slot), usage in self._slots.items():
            if usage.key:
                self.kept.put(usage.key, group, slot, usage)
        self._slots.clear()

    def free_all(self) -> None:
        self._slots.clear()
        self.kept.clear()
        for group in self.engine.groups:
            group.free_all()

    def places(self) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """Keys of requests whose rows are here, open or kept, with their (group, slot)."""
        yield from self.kept
        yield from ((usage.key, place) for place, usage in list(self._slots.items()) if usage.key)

    def unload(self) -> None:
        """Ends the streams that it serves, with what `unloaded` raises."""
        self._unloaded.set()

    @property
    def is_unloaded(self) -> bool:
        return self._unloaded.is_set()

    async def unloaded(self) -> None:
        """Wait until the host gives this stage up. Raises Unavailable then."""
        await self._unloaded.wait()
        raise Unavailable(f"stage {self.spec.stage} of pipeline {self.spec.pipeline} was unloaded")

    async def step(
        self,
        message: pipeline_pb2.Microbatch,
        rows: Rows | Tokens | None = None,
        extra: Extra | None = None,
        following: Following = lambda: None,
    ) -> Rows | None:
        """Carry out a microbatch: slot changes, then its rows (`rows`: what enters the layers; None: what the message carries).

        `extra` is computed with each run. `following`, called within the turn, may give another microbatch of the same slots
        for the same turn of the accelerator. Marks messages with the modelled time and with the usage of released sequences. Returns
        hidden [rows, hidden_size] of the last, or None for a message without rows. Raises InvalidInput when the message does not fit
        this stage.
        """
        if self.is_unloaded:
            await self.unloaded()
        self._change_slots(message)
        if not message.rows:
            return None
        self._check_rows(message)
        given = self._received(message) if rows is None else rows

        return await self._turn(message, lambda: self._run(message, given, extra), following, extra)

    async def extra(
        self,
        message: pipeline_pb2.Microbatch,
        rows: int,
        compute: Callable[[], None],
        following: Following = lambda: None,
    ) -> Rows | None:
        """The output head's computation on `rows` rows at the end of a round, in a run of its own; `following` and what is returned are as
        `step` has them."""

        def run() -> tuple[None, RunReport]:
            report = self.hardware.run(
                StageRun(self.spec.cost, head_rows=rows, stage=self.spec.identity, programs=self.spec.times), compute
            )
            self.work.add(report)
            return None, report

        return await self._turn(message, run, following, counted=False)

    async def _turn(
        self,
        message: pipeline_pb2.Microbatch,
        first: Callable[[], tuple[Rows | None, RunReport]],
        following: Following,
        extra: Extra | None = None,
        counted: bool = True,
    ) -> Rows | None:
        def turn() -> tuple[Rows | None, list[tuple[pipeline_pb2.Microbatch, RunReport]]]:
            hidden, report = first()
            runs = [(message, report)]
            while following_one := following():
                hidden, report = self._run(*following_one, extra)
                runs.append((following_one[0], report))
            return hidden, runs

        brief = self.spec.next is not None and not message.prefill and max(self._decode_seconds) < BRIEF_SECONDS
        hidden, runs = await self.hardware.turn(turn, brief=brief)
        if not message.prefill and (counted or len(runs) > 1):  # the layers ran
            self._decode_seconds = (self._decode_seconds[1], sum(report.wall_seconds for _, report in runs))
        ready_at = message.modelled_at
        for one, report in runs:
            if one.HasField("modelled_at"):
                one.modelled_at = ready_at
            self._account(one, report, counted or one is not message)
            ready_at = one.modelled_at
        return hidden

    def _run(self, message: pipeline_pb2.Microbatch, rows: Rows | Tokens, extra: Extra | None) -> tuple[Rows, RunReport]:
        result: list[Rows] = []

        def compute() -> None:
            result.append(self._compute(message, rows))
            if extra:
                extra.compute(result[0])

        head_rows = 0 if extra is None else message.rows if message.counts else extra.rows
        report = self.hardware.run(self._described(message, head_rows), compute)
        # Here, and not when the turn is over: whoever waits for it may have left.
        self.work.add(
            report,
            prefill_tokens=message.rows if message.prefill else 0,
            decode_tokens=0 if message.prefill else message.rows,
            answer_tokens=_answer_tokens(message),
        )
        return result[0], report

    def _change_slots(self, message: pipeline_pb2.Microbatch) -> None:
        if message.group >= len(self.engine.groups):
            raise InvalidInput(f"stage {self.spec.stage} has no slot group {message.group}")
        group = self.engine.groups[message.group]
        for released in message.released:
            usage = self._slots.pop((message.group, released.slot), None)
            if usage is None or usage.number != released.sequence:
                raise InvalidInput(f"stage {self.spec.stage} holds no sequence {released.sequence} in slot {released.slot}")
            if released.rows:
                self._settle(usage, released.rows)
                group.lengths[released.slot] = min(released.rows, group.lengths[released.slot] + group.drafted[released.slot])
                group.drafted[released.slot] = 0
            released.usage.append(self._usage(usage))
            if released.keep and usage.key:
                self.kept.put(usage.key, message.group, released.slot, None)
        for swapped in message.swapped:
            self._check_slots(swapped.from_slot)
            self._check_free(message.group, swapped.to_slot)
            group.swap(swapped.from_slot, swapped.to_slot)
            self.kept.swapped((message.group, swapped.from_slot), (message.group, swapped.to_slot))
            if usage := self._slots.pop((message.group, swapped.from_slot), None):
                self._slots[message.group, swapped.to_slot] = usage
        for opened in message.opened:
            self._check_free(message.group, opened.slot)
            if opened.kept > group.lengths[opened.slot]:
                raise InvalidInput(f"stage {self.spec.stage} has no {opened.kept} rows in slot {opened.slot}")
            group.lengths[opened.slot], group.drafted[opened.slot] = opened.kept, 0
            self._slots[message.group, opened.slot] = self._opened(message.group, opened)
        for copied in message.copied:
            self._check_slots(copied.from_slot, copied.to_slot)
            if (message.group, copied.to_slot) not in self._slots or copied.rows > group.lengths[copied.from_slot]:
                raise InvalidInput(f"stage {self.spec.stage} cannot copy {copied.rows} rows from slot {copied.from_slot}")
            group.copy(copied.from_slot, copied.to_slot, copied.rows)

    def _opened(self, group: int, opened: pipeline_pb2.Opened) -> Usage:
        if len(opened.key) > MOST_KEY_BYTES:
            raise InvalidInput(f"a key of {len(opened.key)} bytes; at most {MOST_KEY_BYTES}")
        before = self.kept.take(group, opened.slot)
        self.kept.drop(opened.key)
        if before and before[1] and before[0] == opened.key:
            return replace(before[1], number=opened.sequence)  # what it cost so far was for the same answer
        return Usage(opened.sequence, opened.key)

    def _check_slots(self, *slots: int) -> None:
        if max(slots) >= self.spec.shape.slots_per_group:
            raise InvalidInput(f"stage {self.spec.stage} has no slot {max(slots)}")

    def _check_free(self, group: int, slot: int) -> None:
        if slot >= self.spec.shape.slots_per_group or (group, slot) in self._slots:
            raise InvalidInput(f"stage {self.spec.stage} has no free slot {slot} in group {group}")

    def _check_rows(self, message: pipeline_pb2.Microbatch) -> None:
        """Positions are the engine's to judge."""
        slots, rows = list(message.slots), message.rows
        if message.prefill:
            fits = len(slots) == len(message.positions) == 1 and rows <= self.spec.shape.prefill_chunk
        elif message.counts:
            counts, runs = list(message.counts), self.spec.shape.decode == "pairs"
            same = len(slots) == len(message.positions) == len(counts) and _ascending(slots) and sum(counts) == rows
            fits = runs and same and all(1 <= count <= MOST_RUN_ROWS for count in counts)
        else:
            fits = len(slots) == len(message.positions) == rows and _ascending(slots) and self.spec.shape.decode == "rows"
        if not (fits and _ascending(message.wanted) and all(row < rows for row in message.wanted)):
            raise InvalidInput(f"stage {self.spec.stage} was sent a microbatch whose rows, slots and positions contradict each other")
        for slot in slots:
            if (message.group, slot) not in self._slots:
                raise InvalidInput(f"stage {self.spec.stage} has nothing open in slot {slot}")

    def _received(self, message: pipeline_pb2.Microbatch) -> Rows:
        return decode(message.hidden, message.rows, self.spec.shape.hidden_size, self.spec.shape.wire_dtype)

    def _compute(self, message: pipeline_pb2.Microbatch, rows: Rows | Tokens) -> Rows:
        if message.prefill:
            return self.engine.prefill(message.group, message.slots[0], message.positions[0], rows)
        if message.counts:
            return self.engine.extend(message.group, message.slots, message.positions, message.counts, rows)
        return self.engine.decode(message.group, message.slots, message.positions, rows)

    def _described(self, message: pipeline_pb2.Microbatch, head_rows: int) -> StageRun:
        positions = message.positions
        body = Prefill(positions[0], message.rows) if message.prefill else _decode(message)
        sent = self._sent_bytes(message)
        return StageRun(self.spec.cost, body, head_rows, sent, stage=self.spec.identity, programs=self.spec.times)

    def _sent_bytes(self, message: pipeline_pb2.Microbatch) -> int:
        spec = self.spec
        if spec.next is None:
            return 0
        is_last = spec.stage == spec.stages - 1
        sent = message.rows if message.all_wanted or not is_last else len(message.wanted)
        return sent * row_bytes(spec.shape.hidden_size, spec.shape.wire_dtype)

    def _account(self, message: pipeline_pb2.Microbatch, report: RunReport, counted: bool) -> None:
        self.counters.add(report)
        if message.HasField("modelled_at"):
            message.modelled_at = self.clock.occupy(message.modelled_at, report)
        if counted and message.prefill:
            self.counters.prefill_tokens += message.rows
        elif counted:
            self.counters.decode_tokens += message.rows
        for index, slot in enumerate(message.slots):
            usage = self._slots.get((message.group, slot))
            if usage is None:
                raise Unavailable(f"stage {self.spec.stage}: the ring was given up while its step was computed")
            if counted and message.counts:
                self._settle(usage, message.positions[index])
                usage.ran(report, message.positions[index], message.counts[index], message.rows)
                continue
            usage.add(report, 1 / len(message.slots))
            if counted and message.prefill:
                usage.prefill_rows += message.rows
            elif counted:
                usage.decode_rows += 1

    def _settle(self, usage: Usage, length: int) -> None:
        held, rejected = usage.settled(length)
        self.counters.rejected_tokens += rejected
        if held:
            self.work.took(held)

    def _usage(self, usage: Usage) -> telemetry_pb2.StageUsage:
        # A sequence that never ran took nothing of a metered device: that is 0 joules, counted.
        return telemetry_pb2.StageUsage(
            device_id=self.device,
            stage=self.spec.stage,
            busy_seconds=usage.busy_seconds,
            modelled_busy_seconds=usage.modelled_seconds,
            joules=usage.joules or 0.0,
            source=self.hardware.info.energy_source,
            prefill_rows=usage.prefill_rows,
            decode_rows=usage.decode_rows,
            rejected_rows=usage.rejected_rows,
            joules_rejected=usage.joules_rejected,
        )


def _decode(message: pipeline_pb2.Microbatch) -> Decode:
    """Of runs, each row that is computed, the one that pads an odd run too, with the positions before it: a run's rows share what they read
    of the cache, so its time is a little less."""
    runs = zip(message.positions, message.counts or [1] * len(message.positions), strict=True)
    padded = even_up if message.counts else int
    return Decode(tuple(start + row for start, count in runs for row in range(padded(count))))


def _answer_tokens(message: pipeline_pb2.Microbatch) -> int:
    """Rows from which a token is chosen for certain: of a run the first alone."""
    if message.counts:
        return len(message.counts)
    return message.rows if message.all_wanted and not message.prefill else len(message.wanted)


def _ascending(values: Sequence[int]) -> bool:
    return all(before < after for before, after in itertools.pairwise(values))
