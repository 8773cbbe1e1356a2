"""Why a layer takes as long as it does on a core: what its busiest unit waits for, and which mechanism would gain most."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protos.chip.core import MECHANISMS, Core, Mechanism
from protos.chip.instructions import UNITS, Unit
from protos.chip.timing import Timing
from quantize.compiler import ladder
from quantize.compiler.ir import Shape
from quantize.compiler.stage_times import Model, Pieces, alike, program_of

_WORDS = {mechanism: words for words, mechanism in (*ladder.STEPS, ladder.LAST)}
_LEAST = 0.05  # of a layer's time: what gains less is no cause


@dataclass(frozen=True)
class Cause:
    """Of a layer's time: the unit that works longest, how much of the time, what it waits for most, and how long; and what the mechanism
    that gains most would take off, both None where there is none."""

    unit: Unit
    busy: float
    stall: str
    stalled: float
    mechanism: Mechanism | None
    gain: float

    def __str__(self) -> str:
        found = f"its {self.unit} unit works {100 * self.busy:.0f} % of the time"
        if self.stalled >= _LEAST:
            found += f" and waits {100 * self.stalled:.0f} % for {self.stall}"
        if self.mechanism is None:
            return found
        return f"{found}; the mechanism {self.mechanism} ({_WORDS[self.mechanism]}) would take {100 * self.gain:.0f} % off a layer"


def cause_of(model: Model, core: Core, layer: int, shape: Shape) -> Cause:
    """Raises as `unverified`."""
    pieces = Pieces(alike(model, layer) or (layer,))
    timing = program_of(model, core, pieces, shape)[1]
    unit = max(UNITS, key=lambda one: timing.busy[one])
    stalls = timing.stalls[unit]
    stall = max(stalls, key=lambda cause: stalls[cause], default="")
    gains = {one: _gain(model, core, pieces, shape, timing, one) for one in MECHANISMS if one not in core.mechanisms}
    best = max(gains, key=lambda one: gains[one], default=None)
    return Cause(
        unit,
        timing.busy[unit] / timing.cycles,
        stall,
        stalls[stall] / timing.cycles if stall else 0.0,
        best if best and gains[best] >= _LEAST else None,
        gains[best] if best else 0.0,
    )


def _gain(model: Model, core: Core, pieces: Pieces, shape: Shape, before: Timing, mechanism: Mechanism) -> float:
    more = replace(core, mechanisms=core.mechanisms | {mechanism})
    return 1 - program_of(model, more, pieces, shape)[1].seconds / before.seconds
