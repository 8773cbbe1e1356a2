"""What is known of one device's work in a period: by how much its counters grew, and of how much of the time nothing is known.

Counters count within a boot, and the time between two samples is the device's own. The coordinator's clock says only when a boot's last
sample came: a clock that is set anew moves a boot, never a part of it, and what was not stored is told by the next sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from fleet.telemetry.views import Source

# A device is sampled once a second, and what comes is stored within another: silent for longer, it is not known what it does.
HEARD_SECONDS = 5.0


@dataclass(frozen=True)
class Counters:
    """Since a boot, of one sample; or by how much they grew. None: not told. Joules and tokens are of one counter of the device."""

    busy_joules: float | None = None
    idle_joules: float | None = None
    busy_seconds: float | None = None
    modelled_busy_seconds: float | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None

    def plus(self, other: Counters) -> Counters:
        """Where one of them was not told, the other."""
        return Counters(**{field.name: _sum(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)})


@dataclass(frozen=True)
class Point:
    """A sample. `uptime_seconds`: by the device's clock, since the boot."""

    uptime_seconds: float
    counters: Counters


@dataclass(frozen=True)
class Boot:
    """What is stored of a boot. `heard_at` (unix seconds, the coordinator's clock): when its `last` sample came.

    `base` is the last sample at the period's start or before it, `first` the first one behind; both None for a boot that was last heard of
    before the period. `doubtful`: its clock went back, or it changed what it meters.
    """

    source: Source
    heard_at: float
    last: Point
    base: Point | None = None
    first: Point | None = None
    doubtful: bool = False


@dataclass(frozen=True)
class Growth:
    """Of the counters in a period, of boots of one source; `joules_per_token` where both were told."""

    counters: Counters
    joules_per_token: float | None


@dataclass(frozen=True)
class Account:
    """Of one device in a period.

    The figures are of `covered_seconds` by the device's own clock. `lost_seconds` of the period nothing is known of: the device was off, or
    worked unheard. `partial`: not all that it did in the period is known to be in the figures, or some of it is not of the period.
    """

    growth: dict[Source, Growth]
    covered_seconds: float
    lost_seconds: float
    partial: bool


def account(boots: Iterable[Boot], start: float, stop: float, spacing: float = 0.0) -> Account:
    """Of the boots of one device that are stored, in (start, stop], unix seconds.

    `spacing`: seconds between stored samples at the period's start (0: as they came). The period begins with the last sample before its
    start, unless that came so long before that spacing does not explain it: what was done in such a gap may be of any time in it.
    """
    known = sorted((_placed(boot, start, stop, spacing) for boot in boots), key=lambda placed: placed.begin)
    within = [placed for placed in known if placed.end > start]
    counted = within or known[-1:]  # of a device that was not heard of: nothing, in no time
    lost = sum(placed.lost for placed in within)
    lost += sum(max(0.0, after.begin - max(before.end, start)) for before, after in pairwise(known) if after.end > start)
    silent = stop - max(start, *(placed.end for placed in known))
    lost += silent if silent > HEARD_SECONDS else 0.0
    # A boot that another followed ended unheard: what it did after its last sample is not known, however soon the other came.
    followed = len(within) > 1 or any(after.begin > start for after in known[1:])
    return Account(
        growth={source: _total([one for one in counted if one.source == source]) for source in sorted({one.source for one in counted})},
        covered_seconds=sum(placed.covered for placed in within),
        lost_seconds=lost,
        partial=lost > 0 or followed or any(placed.doubtful for placed in within),
    )


@dataclass(frozen=True)
class _Placed:
    """A boot on the coordinator's time, and what it did in the period."""

    source: Source
    begin: float
    end: float
    growth: Counters
    covered: float = 0.0
    lost: float = 0.0
    doubtful: bool = False


def _placed(boot: Boot, start: float, stop: float, spacing: float) -> _Placed:
    end = min(boot.heard_at, stop)
    begin = end - boot.last.uptime_seconds
    if end <= start or boot.first is None:
        return _Placed(boot.source, begin, end, _grown(boot.last.counters, boot.last.counters)[0])
    base, lost = boot.base, 0.0
    if begin < start and (base is None or start - (begin + base.uptime_seconds) > spacing + HEARD_SECONDS):
        base, lost = boot.first, begin + boot.first.uptime_seconds - start
    zero = Point(0.0, Counters(*[0] * len(fields(Counters))))
    growth, fell = _grown(boot.last.counters, (base or zero).counters)
    return _Placed(
        boot.source,
        begin,
        end,
        growth,
        covered=max(0.0, boot.last.uptime_seconds - (base or zero).uptime_seconds),
        lost=lost,
        # What is heard of in the future was heard before the coordinator's clock was set back.
        doubtful=boot.doubtful or fell or boot.heard_at > stop + HEARD_SECONDS or growth.answer_tokens is None,
    )


def _grown(last: Counters, base: Counters) -> tuple[Counters, bool]:
    """And whether a counter fell, which none does within a boot: it counts from zero, and with one that is divided all of them do."""
    pairs = {field.name: (getattr(last, field.name), getattr(base, field.name)) for field in fields(Counters)}
    fell = {name for name, (after, before) in pairs.items() if after is not None and before is not None and after < before}
    anew = fell & {"busy_joules", "prompt_tokens", "answer_tokens"}
    grown = {
        name: after if anew or name in fell else None if after is None or before is None else after - before
        for name, (after, before) in pairs.items()
    }
    return Counters(**grown), bool(fell)


def _total(placed: Sequence[_Placed]) -> Growth:
    counters = Counters()
    for one in placed:
        counters = counters.plus(one.growth)
    both = [one.growth for one in placed if one.growth.busy_joules is not None and one.growth.answer_tokens is not None]
    tokens = sum(growth.answer_tokens or 0 for growth in both)
    return Growth(counters, sum(growth.busy_joules or 0.0 for growth in both) / tokens if tokens else None)


def _sum(left: Any, right: Any) -> Any:
    return right if left is None else left if right is None else left + right
