"""A model whose every row is a hash of all that a stage was fed for it: whatever is computed otherwise gives another text.

Rows of prefill and of decode differ, as they do in a real engine's last bits. Nothing depends on company, chunks or the cut of the layers'
rows over slots, as it must not in a real one.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from device.engine.engine import Engine, Output, Rows, Runtime, Tokens
from device.engine.prepacked import Prepacked
from device.hardware import AcceleratorInfo, Condition, EnergyReading, RunReport, T
from device.pipeline.sampler import sample
from device.stage_spec import StageSpec
from protos.decoding import DecodeMode
from protos.dialects import DIALECT
from protos.errors import InvalidInput
from protos.physics.timing import StageRun
from protos.sampling import Sampling
from protos.v1 import telemetry_pb2

HIDDEN, VOCABULARY = 2, 32
_ROW = struct.Struct("<Q")


def _hash(*parts: object) -> int:
    """40 bits, which two float32 of 20 carry exactly."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=5).digest(), "little")


def _to_rows(values: Sequence[int]) -> Rows:
    return np.array([(value & 0xFFFFF, value >> 20) for value in values], np.float32).reshape(len(values), HIDDEN)


def _from_rows(rows: Rows) -> list[int]:
    return [int(low) | int(high) << 20 for low, high in rows]


class ToyGroup:
    """A slot's cache is the list of its rows, each of which holds what all before it were."""

    def __init__(self, slots: int) -> None:
        self.lengths = [0] * slots
        self.drafted = [0] * slots
        self.cache: list[list[int]] = [[] for _ in range(slots)]

    def free_all(self) -> None:
        self.lengths = [0] * len(self.lengths)
        self.drafted = [0] * len(self.drafted)

    def swap(self, one: int, other: int, group: ToyGroup | None = None) -> None:
        group = group or self
        self.cache[one], group.cache[other] = group.cache[other], self.cache[one]
        self.lengths[one], group.lengths[other] = group.lengths[other], self.lengths[one]
        self.drafted[one], group.drafted[other] = group.drafted[other], self.drafted[one]

    def copy(self, source: int, target: int, rows: int) -> None:
        self.cache[target], self.lengths[target], self.drafted[target] = self.cache[source][:rows], rows, 0

    def rows(self, slot: int, start: int, stop: int) -> bytes:
        return b"".join(map(_ROW.pack, self.cache[slot][start:stop]))

    def put(self, slot: int, start: int, count: int, data: bytes) -> None:
        if start > self.lengths[slot] or len(data) != count * _ROW.size:
            raise InvalidInput("rows that do not follow")
        self.cache[slot][start:] = [value for (value,) in _ROW.iter_unpack(data)]
        self.lengths[slot], self.drafted[slot] = start + count, 0


class ToyEngine:
    def __init__(self, spec: StageSpec) -> None:
        self._stage = spec.stage
        self.groups = [ToyGroup(spec.shape.slots_per_group) for _ in range(spec.shape.groups)]

    def prefill(self, group: int, slot: int, start: int, rows: Rows | Tokens) -> Rows:
        self.groups[group].drafted[slot] = 0
        if start % 2:
            raise InvalidInput("a chunk at an odd position, whose rows would not be those of a cold run")
        return _to_rows([self._row(group, slot, start + index, value, "prefill") for index, value in enumerate(self._given(rows))])

    def decode(self, group: int, slots: Sequence[int], positions: Sequence[int], rows: Rows | Tokens) -> Rows:
        fed = zip(slots, positions, self._given(rows), strict=True)
        return _to_rows([self._row(group, slot, position, value, "decode") for slot, position, value in fed])

    def extend(self, group: int, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int], rows: Rows | Tokens) -> Rows:
        held, given, made = self.groups[group], self._given(rows), list[int]()
        for slot, start, count in zip(slots, starts, counts, strict=True):
            if start > held.lengths[slot] + held.drafted[slot]:
                raise InvalidInput(f"a run at {start} of a slot that holds {held.lengths[slot]} and {held.drafted[slot]} drafts")
            for ahead in range(count):
                held.lengths[slot] = start + ahead
                made.append(self._row(group, slot, start + ahead, given[len(made)], "prefill"))
            held.lengths[slot], held.drafted[slot] = start + 1, count - 1
        return _to_rows(made)

    def _given(self, rows: Rows | Tokens) -> list[int]:
        return [int(token) for token in rows] if self._stage == 0 else _from_rows(np.asarray(rows, np.float32))

    def _row(self, group: int, slot: int, position: int, value: int, how: str) -> int:
        held = self.groups[group]
        if position != held.lengths[slot]:
            raise InvalidInput(f"a row at {position} of a slot that holds {held.lengths[slot]}")
        row = row_of(self._stage, held.cache[slot][:position], value, how)
        held.cache[slot][position:] = [row]
        held.lengths[slot] = position + 1
        return row


def row_of(stage: int, before: Sequence[int], value: int, how: str) -> int:
    """Of all rows before it, as attention is."""
    return _hash(stage, sum(number * row for number, row in enumerate(before, 1)), value, how)


class ToyOutput:
    def logits(self, hidden: Rows) -> Rows:
        return np.array([logits_of(value) for value in _from_rows(hidden)], np.float32)

    def normed(self, hidden: Rows) -> Rows:
        return hidden


def logits_of(value: int) -> list[float]:
    """Of few kinds, so that a text repeats itself, and drafts hold now and then."""
    return [_hash(value % 4, token) / 2**38 for token in range(VOCABULARY)]


def open_toy(spec: StageSpec, blob_folder: Path, threads: int, saved: Prepacked | None) -> tuple[Engine, Output | None]:
    """In place of device.engine.opening.open_stage."""
    return ToyEngine(spec), ToyOutput() if spec.is_head else None


def answer_of(stages: int, prompt: Sequence[int], tokens: int, sampling: Sampling, decode: DecodeMode) -> list[int]:
    """What a request is to be answered, by a run that nothing disturbs."""
    cache: list[list[int]] = [[] for _ in range(stages)]
    given, answer = list(prompt), list[int]()
    for position in range(len(prompt) + tokens - 1):
        value = given[position]
        for stage, before in enumerate(cache):
            value = row_of(stage, before, value, "prefill" if position < len(prompt) or decode == "pairs" else "decode")
            before.append(value)
        if position >= len(prompt) - 1:
            token = sample(np.array(logits_of(value), np.float32), sampling, len(prompt) + len(answer))
            answer.append(token)
            given.append(token)
    return answer


class ToyHardware:
    """One run at a time, in the order asked, each of `seconds()` on the loop's clock. A run that was begun ends, whoever has left."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._last: asyncio.Task[object] | None = None
        self.info = AcceleratorInfo("toy", "", False, "", 1, telemetry_pb2.ENERGY_SOURCE_UNMETERED)
        self.memory_bytes = 1 << 30

    async def turn(self, function: Callable[[], T], *, brief: bool = False) -> T:
        before, seconds = self._last, self._seconds()

        async def run() -> T:
            if before is not None:
                await asyncio.wait([before])
            await asyncio.sleep(seconds)
            return function()

        task = asyncio.create_task(run())
        self._last = task
        return await asyncio.shield(task)

    def run(self, run: StageRun, compute: Callable[[], None]) -> RunReport:
        compute()
        return RunReport(0.001, None, None)

    def energy(self) -> EnergyReading:
        return EnergyReading(None, None, 0.0)

    def condition(self) -> Condition:
        return Condition()

    def close(self) -> None:
        """Nothing was opened."""


TOY = Runtime(DIALECT, open_toy)
