"""What the faults that are active come to, for each device and each link: pure, so that every end of one can be worked out anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from sim_devices.faults import LINK_KINDS, Fault


@dataclass(frozen=True)
class Active:
    """`number` names it; `since_ms` and `until_ms` (None: until healed) are times of the log."""

    number: int
    fault: Fault
    since_ms: int
    until_ms: int | None


@dataclass(frozen=True)
class FaultCondition:
    """What a device is to be like; the default is healthy."""

    off: bool = False
    hung: bool = False
    slowdown: float = 1.0
    celsius: float | None = None
    disk_full: bool = False
    battery_empty: bool = False
    clock_skew_seconds: float = 0.0


HEALTHY = FaultCondition()


def condition_of(device: str, faults: Iterable[Fault]) -> FaultCondition:
    """Of several faults of a kind the last counts."""
    condition = HEALTHY
    for fault in faults:
        if fault.kind in LINK_KINDS or device not in fault.devices:
            continue
        match fault.kind:
            case "kill":
                condition = replace(condition, off=True)
            case "hang":
                condition = replace(condition, hung=True)
            case "slow":
                condition = replace(condition, slowdown=1.0 if fault.value is None else fault.value)
            case "overheat":
                condition = replace(condition, celsius=fault.value)
            case "full-disk":
                condition = replace(condition, disk_full=True)
            case "battery-empty":
                condition = replace(condition, battery_empty=True)
            case "clock-skew":
                condition = replace(condition, clock_skew_seconds=fault.value or 0.0)
    return condition


def cuts_of(faults: Iterable[Fault]) -> frozenset[frozenset[str]]:
    """Who cannot reach whom."""
    return frozenset(pair for fault in faults for pair in fault.pairs() if len(pair) == 2)


def words_for(before: FaultCondition, after: FaultCondition) -> list[list[str]]:
    """What a running device is told so that `before` becomes `after`."""
    words = []
    if after.slowdown != before.slowdown:
        words.append(["slow", f"{after.slowdown:g}"])
    if after.celsius != before.celsius:
        words.append(["temperature", "-" if after.celsius is None else f"{after.celsius:g}"])
    if after.disk_full != before.disk_full:
        words.append(["disk", "full" if after.disk_full else "ok"])
    if after.battery_empty != before.battery_empty:
        words.append(["battery", "0" if after.battery_empty else "1"])
    if after.clock_skew_seconds != before.clock_skew_seconds:
        words.append(["clock", f"{after.clock_skew_seconds:g}"])
    return words


def healed(active: Sequence[Active], targets: Sequence[str]) -> tuple[list[Active], list[Active]]:
    """What stays, and what ends, when `targets` are healed: numbers of faults, names or patterns of devices; none: everything.

    A fault of several devices stays for the others; of a cut or partition the healed device reaches all again.
    """
    stays, ends = [], []
    for one in active:
        if not targets or str(one.number) in targets:
            ends.append(one)
            continue
        groups = tuple(tuple(name for name in group if not _matches(name, targets)) for group in one.fault.groups)
        if groups == one.fault.groups:
            stays.append(one)
            continue
        rest = replace(one.fault, groups=tuple(filter(None, groups)))
        whole = len(rest.groups) >= (2 if rest.kind in LINK_KINDS else 1)
        gone = tuple(tuple(name for name in group if _matches(name, targets)) for group in one.fault.groups)
        ends.append(replace(one, fault=one.fault if not whole else replace(one.fault, groups=tuple(filter(None, gone)))))
        if whole:
            stays.append(replace(one, fault=rest))
    return stays, ends


def _matches(name: str, targets: Sequence[str]) -> bool:
    return any(fnmatchcase(name, target) for target in targets)
