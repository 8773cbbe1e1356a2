"""Runs of several slots at once, by a graph that has several attentions in each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from device.engine.engine import Rows, Tokens
from device.engine.kv import SlotGroup
from device.engine.session import Binding, Session, share
from device.stage_spec import StageShape
from protos.even import even_up


@dataclass(frozen=True)
class Run:
    """`count` rows of a slot at positions from `start` on; with the row that pads an odd one it is `width` wide and ends at `stop`."""

    slot: int
    start: int
    count: int

    @property
    def width(self) -> int:
        return even_up(self.count)

    @property
    def stop(self) -> int:
        return self.start + self.width


class SlotsRun:
    """Bound to the graph and to a group's caches once: what changes from run to run is the rows, and which slot an attention is for."""

    def __init__(self, session: Session, group: SlotGroup, shape: StageShape, takes_tokens: bool) -> None:
        self._group, self._shape, self._takes_tokens = group, shape, takes_tokens
        places = shape.attention_slots
        self._counts, self._total, self._pads = np.zeros(places, np.int64), np.zeros(1, np.int64), np.zeros(6, np.int64)
        self._last, self._totals = np.zeros(places, np.int32), np.zeros(places, np.int32)
        fixed = {
            "row_counts": self._counts,
            "row_total": self._total,
            "row_pads": self._pads,
            "seqlens_k": self._last,
            "total_sequence_length": self._totals,
        }
        # Where an attention without a run puts its row.
        self._nowhere = SlotGroup(replace(shape, slots_per_group=1, context=2))
        self._slots: list[int | None] = [None] * places
        self._binding: Binding = session.bind([(name, share(array)) for name, array in fixed.items()], [])
        self._arrays: dict[int, tuple[Rows | Tokens, Rows]] = {}
        for place in range(places):
            self._bind_caches(place, None)

    def run(self, runs: Sequence[Run], rows: Rows | Tokens) -> Rows:
        """`rows` of all `runs`, without those that pad them; hidden [len(rows), hidden]."""
        idle = len(self._slots) - len(runs)
        self._counts[:], self._last[:], self._totals[:], self._pads[4] = 1, 0, 1, idle
        taken: list[int] = []
        width = 0
        for place, run in enumerate(runs):
            self._counts[place], self._last[place], self._totals[place] = run.width, run.stop - 1, run.stop
            taken += range(width, width + run.count)
            width += run.width
        self._total[0] = width
        for place, slot in enumerate([*(run.slot for run in runs), *[None] * idle]):
            if self._slots[place] != slot:
                self._bind_caches(place, slot)
        given, hidden = self._bind_rows(width)
        given[0, taken] = rows
        self._binding.run()
        found: Rows = hidden[0, taken]
        return found

    def _bind_rows(self, width: int) -> tuple[Rows | Tokens, Rows]:
        if width not in self._arrays:
            size = (1, width, self._shape.hidden_size)
            given: Rows | Tokens = np.zeros((1, width), np.int64) if self._takes_tokens else np.zeros(size, np.float32)
            self._arrays[width] = given, np.zeros(size, np.float32)
        given, hidden = self._arrays[width]
        self._binding.replace([("input_ids" if self._takes_tokens else "hidden_in", share(given))], [("hidden_out", share(hidden))])
        return given, hidden

    def _bind_caches(self, place: int, slot: int | None) -> None:
        group, at = (self._nowhere, 0) if slot is None else (self._group, slot)
        self._slots[place] = slot
        for layer, keys, values in group.layers():
            inputs, outputs = [], []
            for what, cache in (("key", keys), ("value", values)):
                value = share(cache[at : at + 1])
                inputs.append((f"past_{what}.{layer}.{place}", value))
                outputs.append((f"present_{what}.{layer}.{place}", value))
            self._binding.replace(inputs, outputs)
