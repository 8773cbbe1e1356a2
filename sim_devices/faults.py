"""What can be done to a simulated fleet, in one grammar for fleet files, the command line and the log."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Literal, get_args

from protos.errors import InvalidInput, NotFound
from sim_devices import quantities

Kind = Literal[
    "kill", "hang", "slow", "flip-bit", "full-disk", "clock-skew", "overheat", "battery-empty", "cut", "partition", "rejoin", "heal"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
COORDINATOR = "coordinator"  # the other end of a link to whoever is no device of the fleet
LINK_KINDS: tuple[Kind, ...] = ("cut", "partition")
INSIDE_KINDS: tuple[Kind, ...] = ("slow", "overheat", "battery-empty", "full-disk", "clock-skew")  # told to a device's process
OVERHEATED_CELSIUS = 110.0  # above every profile's throttling point
_ONE = "one:"
_SELECTOR = re.compile(r"(one:)?[a-z0-9*][a-z0-9*-]{0,39}")

# How each is written, and what it does: for help and for errors.
USAGE: Mapping[Kind, tuple[str, str]] = {
    "kill": ("kill DEVICE", "its process ends, as by a power cut"),
    "hang": ("hang DEVICE", "it stands still: connects, answers nothing"),
    "slow": ("slow DEVICE FACTOR", "every run takes FACTOR times as long"),
    "flip-bit": ("flip-bit DEVICE [DIGEST]", "one bit of a stored blob changes"),
    "full-disk": ("full-disk DEVICE", "no more room for blobs"),
    "clock-skew": ("clock-skew DEVICE ±TIME", "its wall clock is so wrong, for example +1h"),
    "overheat": ("overheat DEVICE [CELSIUS]", f"the chip is so hot (default {OVERHEATED_CELSIUS:.0f})"),
    "battery-empty": ("battery-empty DEVICE", "its battery is used up, and it goes down"),
    "cut": ("cut A B", "nothing passes between them: a cable pulled"),
    "partition": ("partition A,B | C,D", "nothing passes between the groups"),
    "rejoin": ("rejoin DEVICE", "a killed device starts, with the state it had"),
    "heal": ("heal [DEVICE or NUMBER]", "ends what was done to it, or everything"),
}


@dataclass(frozen=True)
class Fault:
    """`groups` of device names, `*` patterns of them, or "one:" and a pattern (one of those, chosen by the seed); links also know
    "coordinator". Device faults have one group, `cut` two, `partition` two or more, `heal` one that may be empty.

    `value`: the factor of slow, seconds of clock-skew, degrees Celsius of overheat. `blob`: how the digest begins, for flip-bit.
    """

    kind: Kind
    groups: tuple[tuple[str, ...], ...]
    value: float | None = None
    blob: str = ""

    @property
    def text(self) -> str:
        """The words that `parse_fault` reads."""
        groups = [",".join(group) for group in self.groups]
        words = [self.kind, " | ".join(groups) if self.kind == "partition" else " ".join(groups)]
        if self.kind == "clock-skew":
            assert self.value is not None
            words.append(("-" if self.value < 0 else "+") + quantities.duration_text(abs(self.value)))
        elif self.value is not None:
            words.append(f"{self.value:g}")
        return " ".join(filter(None, [*words, self.blob]))

    @property
    def devices(self) -> tuple[str, ...]:
        """All that it names, once each."""
        return tuple(dict.fromkeys(name for group in self.groups for name in group))

    def pairs(self) -> frozenset[frozenset[str]]:
        """Of a resolved cut or partition: who cannot reach whom."""
        return frozenset(
            frozenset((a, b)) for one, other in combinations(self.groups, 2) for a in one for b in other if self.kind in LINK_KINDS
        )


def parse_fault(text: str) -> Fault:
    """Of "slow dev-2 4" and the like (USAGE). Raises InvalidInput that says how it is written."""
    words = text.replace("|", " | ").split()
    kind = next((known for known in KINDS if words and words[0] == known), None)
    if kind is None:
        said = f"not a fault: {words[0][:40]!r}" if words else "no fault is named"
        raise InvalidInput(said, advice=f"known: {', '.join(KINDS)}")
    fault = _arguments(kind, words[1:])
    for name in fault.devices:
        if not _SELECTOR.fullmatch(name):
            raise _misused(kind, f"{name[:40]!r} is no device name or pattern")
    return fault


def _arguments(kind: Kind, words: Sequence[str]) -> Fault:
    if kind == "partition":
        groups = tuple(_names(part) for part in " ".join(words).split("|"))
        if len(groups) < 2 or not all(groups):
            raise _misused(kind, "two groups or more, with | between them")
        if len(named := [name for group in groups for name in group]) != len(set(named)):
            raise _misused(kind, "a device is in one group only")
        return Fault(kind, groups)
    if kind == "heal":
        return Fault(kind, (_names(" ".join(words)),))
    if kind == "cut":
        if len(words) != 2:
            raise _misused(kind, "two ends")
        return Fault(kind, (_names(words[0]), _names(words[1])))
    least, most = {"slow": (2, 2), "clock-skew": (2, 2), "overheat": (1, 2), "flip-bit": (1, 2)}.get(kind, (1, 1))
    if not least <= len(words) <= most:
        raise _misused(kind, f"{len(words)} arguments")
    fault = Fault(kind, (_names(words[0]),))
    if kind == "overheat":
        fault = replace(fault, value=OVERHEATED_CELSIUS)
    return _with_argument(fault, words[1]) if len(words) == 2 else fault


def _with_argument(fault: Fault, word: str) -> Fault:
    if fault.kind == "flip-bit":
        if not re.fullmatch(r"[0-9a-f]{1,64}", word):
            raise _misused(fault.kind, f"{word[:40]!r} is not the beginning of a digest")
        return replace(fault, blob=word)
    try:
        value = _signed_seconds(word) if fault.kind == "clock-skew" else float(word)
    except ValueError as error:
        raise _misused(fault.kind, f"{word[:40]!r} is none") from error
    low, high = {"slow": (1.0, 1000.0), "overheat": (-40.0, 200.0)}.get(fault.kind, (-1e9, 1e9))
    if not low <= value <= high:
        raise _misused(fault.kind, f"{value:g} is not from {low:g} to {high:g}")
    return replace(fault, value=value)


def matching(selectors: Iterable[str], names: Sequence[str], chance: random.Random) -> tuple[str, ...]:
    """The names that are meant, in the order of `names`; for "one:…" one, by `chance`. Raises NotFound for a selector without any."""
    chosen: set[str] = set()
    for selector in selectors:
        found = [name for name in names if fnmatchcase(name, selector.removeprefix(_ONE))]
        if not found:
            raise NotFound(f"no device {selector!r} in this fleet", advice=f"there are {', '.join(names[:20])}")
        chosen.update([chance.choice(found)] if selector.startswith(_ONE) else found)
    return tuple(name for name in names if name in chosen)


def resolve(fault: Fault, names: Sequence[str], chance: random.Random) -> Fault:
    """With names for selectors. Raises NotFound; InvalidInput when a cut would have one end only."""
    if fault.kind == "heal":
        known = {*names, COORDINATOR}
        for name in fault.devices:
            if not name.isdecimal() and name not in known and "*" not in name:
                raise NotFound(f"no device {name!r} in this fleet", advice=f"there are {', '.join(names[:20])}")
        return fault
    among = [*names, COORDINATOR] if fault.kind in LINK_KINDS else names
    resolved = replace(fault, groups=tuple(matching(group, among, chance) for group in fault.groups))
    if fault.kind == "cut" and not any(len(pair) == 2 for pair in resolved.pairs()):
        raise InvalidInput(f"{fault.text}: both ends are the same", advice="name two")
    return resolved


def _signed_seconds(word: str) -> float:
    value = quantities.seconds(word.removeprefix("-").removeprefix("+"))
    return -value if word.startswith("-") else value


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, re.split(r"[,\s]+", text)))


def _misused(kind: Kind, detail: str) -> InvalidInput:
    usage, meaning = USAGE[kind]
    return InvalidInput(f"{kind}: {detail}", advice=f"write: {usage} ({meaning})")
