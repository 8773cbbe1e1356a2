"""Fourth pass: each buffer's place in the scratchpad, from the step that writes it first to the one that reads it last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantize.compiler import ir
from quantize.compiler.ir import Step

_ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """Of a buffer: steps [first, last]."""

    name: str
    size_bytes: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Allocation:
    """`place` is by a buffer's name; "workspace N" is step N's own. All lie below `size_bytes`."""

    place: Mapping[str, int]
    size_bytes: int


def lifetimes(steps: Sequence[Step], workspaces: Sequence[int] = ()) -> tuple[Lifetime, ...]:
    """In the order of the first steps, the larger ones first."""
    found: dict[str, Lifetime] = {}
    for number, step in enumerate(steps):
        for buffer in ir.buffers(step.operation):
            first = found[buffer.name].first if buffer.name in found else number
            found[buffer.name] = Lifetime(buffer.name, buffer.size_bytes, first, number)
    for number, size_bytes in enumerate(workspaces):
        if size_bytes:
            found[f"workspace {number}"] = Lifetime(f"workspace {number}", size_bytes, number, number)
    return tuple(sorted(found.values(), key=lambda one: (one.first, -one.size_bytes, one.name)))


def allocate(wanted: Sequence[Lifetime]) -> Allocation:
    """Each at the lowest place where nothing lives that meets it."""
    places: dict[str, int] = {}
    placed: list[tuple[int, Lifetime]] = []
    end = 0
    for one in wanted:
        at = 0
        for start, other in sorted((pair for pair in placed if pair[1].meets(one)), key=lambda pair: pair[0]):
            if start - at >= one.size_bytes:
                break
            at = max(at, _aligned(start + other.size_bytes))
        placed.append((at, one))
        placed = [pair for pair in placed if pair[1].last >= one.first]
        end = max(end, at + one.size_bytes)
        places[one.name] = at
    return Allocation(places, _aligned(end))


def overlaps(wanted: Sequence[Lifetime], found: Allocation) -> tuple[str, str] | None:
    """Two buffers that live at once and share a byte; None where none do."""
    for number, one in enumerate(wanted):
        for other in wanted[:number]:
            start, second = found.place[one.name], found.place[other.name]
            if one.meets(other) and start < second + other.size_bytes and second < start + one.size_bytes:
                return other.name, one.name
    return None


def dump(wanted: Sequence[Lifetime], found: Allocation) -> str:
    lines = [f"{found.place[one.name]:#08x} {one.size_bytes:>10,}  steps {one.first}-{one.last}  {one.name}" for one in wanted]
    return "\n".join([f"{found.size_bytes:,} bytes", *lines])


def _aligned(address: int) -> int:
    return -(-address // _ALIGNMENT) * _ALIGNMENT
