"""Rows of sequences whose ring broke: where a stage keeps them, until the same requests go on behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from device.engine.engine import Group
from device.pipeline.accounts import Usage
from protos.errors import InvalidInput
from protos.v1 import pipeline_pb2 as pb

MOST_KEY_BYTES = 32


@dataclass(frozen=True)
class KeptRows:
    """The first `rows` rows of a slot that no sequence has, of the request with this key."""

    key: bytes
    group: int
    slot: int
    rows: int

    @property
    def place(self) -> tuple[int, int]:
        return self.group, self.slot

    def to_message(self) -> pb.KeptRows:
        return pb.KeptRows(key=self.key, group=self.group, slot=self.slot, rows=self.rows)


def parse_kept(messages: Iterable[pb.KeptRows], groups: int, slots_per_group: int) -> tuple[KeptRows, ...]:
    """Raises InvalidInput for what contradicts itself or has no place among these slots."""
    kept = tuple(KeptRows(one.key, one.group, one.slot, one.rows) for one in messages)
    fits = all(one.group < groups and one.slot < slots_per_group and 0 < len(one.key) <= MOST_KEY_BYTES for one in kept)
    if not fits or len({one.key for one in kept}) < len(kept) or len({one.place for one in kept}) < len(kept):
        raise InvalidInput("the rows that are said to be kept contradict each other, or have no place here")
    return kept


@dataclass
class _Place:
    group: int
    slot: int
    usage: Usage | None  # what the sequence cost here; None where its rows came from another device


class Kept:
    """Of one stage. How many rows a slot has, its group knows. Not thread-safe."""

    def __init__(self) -> None:
        self._places: dict[bytes, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """Keys with their (group, slot)."""
        return ((key, (place.group, place.slot)) for key, place in list(self._places.items()))

    def place(self, key: bytes) -> tuple[int, int] | None:
        place = self._places.get(key)
        return (place.group, place.slot) if place else None

    def put(self, key: bytes, group: int, slot: int, usage: Usage | None) -> None:
        """What another key had in the slot, or this one elsewhere, is kept no longer."""
        self.take(group, slot)
        self._places[key] = _Place(group, slot, usage)

    def take(self, group: int, slot: int) -> tuple[bytes, Usage | None] | None:
        """The slot becomes a sequence's: whose rows it held, if anybody's."""
        for key, place in self._places.items():
            if (place.group, place.slot) == (group, slot):
                del self._places[key]
                return key, place.usage
        return None

    def drop(self, key: bytes) -> None:
        self._places.pop(key, None)

    def clear(self) -> None:
        self._places.clear()

    def swapped(self, one: tuple[int, int], other: tuple[int, int]) -> None:
        """All that two slots held has changed places."""
        for place in self._places.values():
            here = (place.group, place.slot)
            if here in (one, other):
                place.group, place.slot = other if here == one else one

    def arrange(self, groups: Sequence[Group], wanted: Iterable[KeptRows] | None) -> tuple[KeptRows, ...]:
        """Bring what is `wanted` to the places that it names, and keep nothing else; None: all, where it is. What is kept now; a slot of
        which nothing is has no rows."""
        if wanted is not None:
            asked = {one.key: one for one in wanted}
            self._places = {key: place for key, place in self._places.items() if key in asked}
            for one in asked.values():
                if (here := self.place(one.key)) is not None and here != one.place:
                    groups[here[0]].swap(here[1], one.slot, groups[one.group])
                    self.swapped(here, one.place)
        kept = []
        for number, group in enumerate(groups):
            lengths = list(group.lengths)
            group.free_all()  # a new list: a run that was given up writes into the old one
            for key, place in self._places.items():
                if place.group == number and lengths[place.slot]:
                    rows = group.lengths[place.slot] = lengths[place.slot]
                    kept.append(KeptRows(key, number, place.slot, rows if wanted is None else min(rows, asked[key].rows)))
        self._places = {one.key: self._places[one.key] for one in kept}
        return tuple(kept)
