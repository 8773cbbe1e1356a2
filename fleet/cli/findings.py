"""What `glmfleet doctor` finds, and how it is told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fleet.cli.devices import NAMED
from fleet.cli.output import count_text, say

Level = Literal["ok", "warn", "fail"]
_HANG = 9  # beneath what is found
_SHOWN: dict[Level, str] = {"ok": "ok     ", "warn": "warning", "fail": "PROBLEM"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `advice` is what to do when it is not ok. One of a device ends its name in `device`."""

    name: str
    level: Level
    detail: str
    advice: str = ""
    device: str = ""

    @property
    def ok(self) -> bool:
        return self.level == "ok"


def checked(name: str, is_fine: bool, detail: str, advice: str = "", device: str = "") -> Finding:
    """Fine, or a problem."""
    return Finding(name, "ok" if is_fine else "fail", detail, advice, device)


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """`ok` says whether it is fine, as before there were levels."""
    return [asdict(one) | {"ok": one.ok} for one in findings]


def tell(findings: Sequence[Finding]) -> None:
    """In lines. Of what many devices have, the first are named and the others counted."""
    alike: dict[tuple[str, Level], list[Finding]] = defaultdict(list)
    for one in findings:
        alike[_kind(one)].append(one)
    for one in findings:
        group = alike[_kind(one)]
        place = next(place for place, other in enumerate(group) if other is one)
        if one.device and place >= NAMED:
            if place == NAMED:
                kind = one.name.removesuffix(one.device).strip().removesuffix(" of")
                say(f"{_SHOWN[one.level]}  {kind}: and {count_text(len(group) - NAMED, 'device')} more; see --json", _HANG)
            continue
        say(f"{_SHOWN[one.level]}  {one.name}: {one.detail}", _HANG)
        if one.advice and not one.ok:
            say(f"{'':{_HANG}}{one.advice}", _HANG)


def _kind(one: Finding) -> tuple[str, Level]:
    return (one.name.removesuffix(one.device) if one.device else one.name, one.level)
