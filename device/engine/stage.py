"""One stage's computation: rows of one slot group through its layers, the cache updated in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from device.engine.engine import Rows, Tokens
from device.engine.kv import SlotGroup, check_run
from device.engine.session import Binding, Dimensions, Session, scalar_like, share
from device.engine.slots_run import Run, SlotsRun
from device.stage_spec import StageShape, StageSpec
from protos.errors import InvalidInput
from protos.even import even_up

# Bindings of runs that are kept: some widths of each slot.
MOST_RUNS = 64


class StageEngine:
    """A stage's layers with their cache. Every run has a padded, even number of rows, so a row's result never depends on its company.

    Not thread-safe: one run at a time.
    """

    def __init__(self, spec: StageSpec, blob_folder: Path, threads: int, prepacked: Path | None = None) -> None:
        self.shape = spec.shape
        self._session = Session(spec.graph, blob_folder, threads, prepacked, blobs=spec.blobs)
        self._takes_tokens = spec.is_head
        _check_graph(self._session, spec)
        self.groups = [SlotGroup(spec.shape) for _ in range(spec.shape.groups)]
        self._decode: dict[tuple[int, int], _Run] = {}
        self._runs: dict[tuple[int, int, int], _Run] = {}
        self._at_once_runs: dict[int, SlotsRun] = {}  # by group

    def prefill(self, group: int, slot: int, start: int, rows: Rows | Tokens) -> Rows:
        """Rows at positions [start, start + n) of one slot; returns hidden [n, hidden]."""
        count = len(rows)
        lengths = self.groups[group].lengths
        # A row that pads a prefix would be seen by all others; and a prefix is never cut, so its run is the same each time.
        width = count if self.shape.prefix_whole else even_up(count)
        if start != lengths[slot] or start + width > self.shape.context:
            raise InvalidInput(f"prefill of [{start}, {start + count}) into a slot that holds {lengths[slot]} of {self.shape.context}")
        if self.shape.attention_slots:
            hidden = self._at_once(group, [Run(slot, start, count)], rows)
            lengths[slot], self.groups[group].drafted[slot] = start + count, 0
            return hidden
        run = self._bind(group, slot, slot + 1, width)
        run.fill(slice(0, count), rows)
        run.last[0] = start + run.width - 1
        run.total[...] = start + run.width
        run.binding.run()
        lengths[slot], self.groups[group].drafted[slot] = start + count, 0
        return run.hidden_out[0, :count]

    def decode(self, group: int, slots: Sequence[int], positions: Sequence[int], rows: Rows | Tokens) -> Rows:
        """One row for each of `slots` (ascending) at its position; returns hidden [len(slots), hidden]."""
        lengths = self.groups[group].lengths
        for slot, position in zip(slots, positions, strict=True):
            if position != lengths[slot] or position >= self.shape.context:
                raise InvalidInput(f"decode at {position} in a slot that holds {lengths[slot]} of {self.shape.context}")
        multiple = self.shape.row_multiple
        batch = -(-(slots[-1] + 1) // multiple) * multiple
        run = self._decode.get((group, batch))
        if run is None:
            run = self._decode[group, batch] = self._bind(group, 0, batch, 1)
        index = list(slots)
        run.fill(index, rows)
        # Slots without a row compute too; what they write lies one past their end, where their next real row goes. A full slot has no
        # next row (and the rotary tables may have none for it): there it is the last.
        run.last[:] = np.minimum(lengths[:batch], self.shape.context - 1)
        run.total[...] = run.last.max() + 1
        run.binding.run()
        for slot in slots:
            lengths[slot] += 1
        return run.hidden_out[index, 0]

    def extend(self, group: int, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int], rows: Rows | Tokens) -> Rows:
        """See Engine.extend. As many slots at once as the graph has attentions for, else one after the other, since the kernel takes a
        batch of them for one row each alone."""
        own, first = self.groups[group], 0
        runs = [Run(slot, start, count) for slot, start, count in zip(slots, starts, counts, strict=True)]
        for run in runs:
            check_run(own, run.slot, run.start, run.count, self.shape.context)
        if self.shape.attention_slots:
            hidden = self._at_once(group, runs, rows)
        else:
            hidden = np.empty((len(rows), self.shape.hidden_size), np.float32)
            for run in runs:
                hidden[first : first + run.count] = self._alone(group, run, rows[first : first + run.count])
                first += run.count
        for run in runs:
            own.lengths[run.slot], own.drafted[run.slot] = run.start + 1, run.count - 1
        return hidden

    def _alone(self, group: int, run: Run, rows: Rows | Tokens) -> Rows:
        """A view that the next such run overwrites."""
        key = (group, run.slot, run.width)
        # Binding the caches anew takes 8 % of a small model's step.
        bound = self._runs.pop(key, None) or self._bind(group, run.slot, run.slot + 1, run.width)
        self._runs[key] = bound  # the last used is the last
        if len(self._runs) > MOST_RUNS:
            del self._runs[next(iter(self._runs))]
        bound.fill(slice(0, run.count), rows)
        bound.last[0] = run.stop - 1
        bound.total[...] = run.stop
        bound.binding.run()
        return bound.hidden_out[0, : run.count]

    def _at_once(self, group: int, runs: Sequence[Run], rows: Rows | Tokens) -> Rows:
        if group not in self._at_once_runs:
            self._at_once_runs[group] = SlotsRun(self._session, self.groups[group], self.shape, self._takes_tokens)
        most, parts, first = self.shape.attention_slots, [], 0
        for start in range(0, len(runs), most):
            some = runs[start : start + most]
            count = sum(run.count for run in some)
            parts.append(self._at_once_runs[group].run(some, rows[first : first + count]))
            first += count
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _bind(self, group: int, start: int, stop: int, width: int) -> _Run:
        return _Run(self._session, self.groups[group], (start, stop), width, self.shape, self._takes_tokens)


class _Run:
    """The arrays of a run of slots [start, stop) x `width` positions, bound to the graph once."""

    def __init__(
        self, session: Session, group: SlotGroup, slots: tuple[int, int], width: int, shape: StageShape, takes_tokens: bool
    ) -> None:
        start, stop = slots
        batch = stop - start
        self.width = width
        self._batched = width == 1
        self.rows: npt.NDArray[np.float32] | npt.NDArray[np.int64]
        self.rows = np.zeros((batch, width), np.int64) if takes_tokens else np.zeros((batch, width, shape.hidden_size), np.float32)
        self.positions = np.zeros((batch, width, 2), np.int64) if takes_tokens and shape.learned_positions else None
        self.last = np.zeros(batch, np.int32)
        self.total = scalar_like(session.inputs["total_sequence_length"])
        self.hidden_out = np.zeros((batch, width, shape.hidden_size), np.float32)
        caches = list(bound_caches(group, start, stop))
        inputs = [
            ("input_ids" if takes_tokens else "hidden_in", share(self.rows)),
            *([] if self.positions is None else [("position_ids", share(self.positions))]),
            ("seqlens_k", share(self.last)),
            ("total_sequence_length", share(self.total)),
            *((past, value) for past, _, value in caches),
        ]
        outputs = [("hidden_out", share(self.hidden_out)), *((present, value) for _, present, value in caches)]
        self.binding: Binding = session.bind(inputs, outputs)

    def fill(self, index: slice | list[int], rows: Rows | Tokens) -> None:
        if self.positions is not None:
            (self.positions[:, 0] if self._batched else self.positions[0])[index] = rows[:, 1:]
            rows = rows[:, 0]
        if self._batched:
            self.rows[index, 0] = rows
        else:
            self.rows[0, index] = rows


class OutputHead:
    """Final norm and output head: hidden [n, hidden] to logits [n, vocab]."""

    def __init__(self, spec: StageSpec, blob_folder: Path, threads: int, prepacked: Path | None = None) -> None:
        self._session = Session(spec.head_graph, blob_folder, threads, prepacked, blobs=spec.blobs)
        self._session.expect({"hidden_in": (None, spec.shape.hidden_size)}, {"logits": (None, spec.shape.vocab_size)})
        self._shape = spec.shape
        self._norm = Session(spec.norm_graph, blob_folder, threads, blobs=spec.blobs) if spec.norm_graph else None
        if self._norm:
            self._norm.expect({"hidden_in": (None, spec.shape.hidden_size)}, {"normed": (None, spec.shape.hidden_size)})
        self._runs: dict[int, tuple[Rows, Rows, Binding]] = {}

    def logits(self, hidden: Rows) -> Rows:
        """A view that the next call overwrites."""
        count = len(hidden)
        multiple = self._shape.row_multiple
        padded = -(-count // multiple) * multiple
        if padded not in self._runs:
            rows = np.zeros((padded, self._shape.hidden_size), np.float32)
            logits = np.zeros((padded, self._shape.vocab_size), np.float32)
            self._runs[padded] = (rows, logits, self._session.bind([("hidden_in", share(rows))], [("logits", share(logits))]))
        rows, logits, binding = self._runs[padded]
        rows[:count] = hidden
        binding.run()
        return logits[:count]

    def normed(self, hidden: Rows) -> Rows:
        """hidden [n, hidden] behind the final norm, of a stage that was given its graph."""
        assert self._norm is not None
        rows, normed = np.ascontiguousarray(hidden), np.empty(hidden.shape, np.float32)
        self._norm.bind([("hidden_in", share(rows))], [("normed", share(normed))]).run()
        return normed


def bound_caches(group: SlotGroup, start: int, stop: int) -> Iterator[tuple[str, str, ort.OrtValue]]:
    """(past name, present name, value) for slots [start, stop): both names take the same memory, so the cache grows in place."""
    for layer, keys, values in group.layers():
        yield f"past_key.{layer}", f"present_key.{layer}", share(keys[start:stop])
        yield f"past_value.{layer}", f"present_value.{layer}", share(values[start:stop])


def _check_graph(session: Session, spec: StageSpec) -> None:
    """Raises InvalidInput unless the graph is of this stage: arrays of another shape must not be bound to it."""
    shape = spec.shape
    hidden, cache = (None, None, shape.hidden_size), (None, shape.kv_heads, None, shape.head_dim)
    places = [f"{layer}.{place}" for layer in shape.layers for place in range(shape.attention_slots)] or [str(one) for one in shape.layers]
    pairs = [(f"key.{place}", f"value.{place}") for place in places]
    names = [name for pair in pairs for name in pair]
    rows: dict[str, Dimensions] = {"input_ids": (None, None)} if spec.is_head else {"hidden_in": hidden}
    if spec.is_head and shape.learned_positions:
        rows["position_ids"] = (None, None, 2)
    lengths: dict[str, Dimensions] = {"seqlens_k": (None,), "total_sequence_length": (None,)}
    if shape.attention_slots:
        lengths |= {"row_counts": (shape.attention_slots,), "row_pads": (6,), "row_total": (1,)}
    session.expect(
        {**rows, **lengths, **{f"past_{name}": cache for name in names}},
        {"hidden_out": hidden, **{f"present_{name}": cache for name in names}},
    )
    wanted = {"float32": "tensor(float)", "int8": "tensor(int8)"}[shape.kv_dtype]
    if any(session.input_types[f"past_{name}"] != wanted for name in names):
        raise InvalidInput(f"the stage graph's cache is not {shape.kv_dtype}, which is this stage's")
