"""Files of figures: TOML in which each figure has a value, a unit, a source and how far it is to be trusted."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from protos.errors import InvalidInput, NotFound

Trust = Literal["vendor", "press", "community", "estimated"]


@dataclass(frozen=True)
class Figure:
    value: float
    unit: str
    source: str
    trust: Trust


@dataclass(frozen=True)
class FigureFiles:
    """Files of one kind: those that come with the program, in `folder` (of this package), and people's own. Errors begin with `kind`."""

    kind: str
    folder: str

    def names(self) -> tuple[str, ...]:
        """Of those that come with the program."""
        return tuple(sorted(entry.name.removesuffix(".toml") for entry in self._folder.iterdir() if entry.name.endswith(".toml")))

    def read(self, name_or_path: str) -> tuple[str, str, Path]:
        """(name, text, folder) of one that comes along, or of a file of one's own (`is_path`). Raises NotFound."""
        if is_path(name_or_path):
            path = Path(name_or_path)
            try:
                return path.stem, path.read_text(encoding="utf-8"), path.parent
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not text"
                raise NotFound(
                    f"cannot read {self.kind} {path}: {reason}", advice="name a profile, or a TOML file like those that come along"
                ) from error
        names = self.names()
        if name_or_path not in names:
            raise NotFound(f"no {self.kind} {name_or_path!r}", advice=f"choose one of {', '.join(names)}, or a TOML file")
        return name_or_path, (self._folder / f"{name_or_path}.toml").read_text(encoding="utf-8"), self._folder

    def parse(self, name: str, text: str) -> tuple[str, dict[str, Any]]:
        """(description, all else). Raises InvalidInput."""
        try:
            data = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise self.bad(name, f"not TOML: {error}") from error
        description = data.pop("description", None)
        if not isinstance(description, str):
            raise self.bad(name, "no description")
        return description, data

    def figures(
        self, name: str, data: Mapping[str, Any], units: Mapping[str, str], optional: Mapping[str, str] | None = None
    ) -> dict[str, Figure]:
        """Of tables that are all `units` (by name), some of `optional`, and nothing else. Raises InvalidInput, naming the figure."""
        known = {**units, **(optional or {})}
        for key in [*units, *data]:
            if key not in data:
                raise self.bad(name, f"no [{key}]")
            if key not in known:
                raise self.bad(name, f"unknown [{key[:40]}]")
        return {key: self.figure(name, key, data[key], unit) for key, unit in known.items() if key in data}

    def figure(self, name: str, key: str, entry: Any, wanted: str) -> Figure:
        """One, in the unit `wanted`. Raises InvalidInput."""
        if not isinstance(entry, dict) or set(entry) != {"value", "unit", "source", "trust"}:
            raise self.bad(name, f"[{key}] must have value, unit, source and trust, no more")
        value, unit, source, trust = entry["value"], entry["unit"], entry["source"], entry["trust"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self.bad(name, f"[{key}] value must be a number above 0")
        if unit != wanted:
            raise self.bad(name, f"[{key}] unit must be {wanted!r}")
        if unit == "ratio" and value > 1:
            raise self.bad(name, f"[{key}] is a ratio, at most 1")
        if not isinstance(source, str) or not source:
            raise self.bad(name, f"[{key}] must name its source")
        if trust not in get_args(Trust):
            raise self.bad(name, f"[{key}] trust must be one of {', '.join(get_args(Trust))}")
        return Figure(float(value), unit, source, trust)

    def bad(self, name: str, detail: str) -> InvalidInput:
        return InvalidInput(f"{self.kind} {name}: {detail}", advice=f"compare it with one that comes along, in {self._folder}")

    @property
    def _folder(self) -> Any:
        return files("sim_devices") / self.folder


def is_path(name_or_path: str) -> bool:
    """Of a file of one's own: with a slash, or ending in .toml."""
    return "/" in name_or_path or name_or_path.endswith(".toml")


def estimated(figures: Mapping[str, Figure]) -> tuple[str, ...]:
    """Names of those that nobody has published."""
    return tuple(name for name, figure in figures.items() if figure.trust == "estimated")
