"""Profiles of accelerators: published or estimated figures, each with its unit, source and trust."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from protos.errors import InvalidInput, NotFound

Trust = Literal["vendor", "press", "community", "estimated"]

# What every profile states, and in which unit. Compute counts dense int8 multiply-accumulates: half of the TOPS of a data sheet.
UNITS = {
    "memory": "bytes",
    "memory_bandwidth": "bytes/s",
    "memory_bandwidth_efficiency": "ratio",
    "compute": "int8 MAC/s",
    "compute_efficiency": "ratio",
    "launch": "s",
    "idle_power": "W",
    "tdp": "W",
    "memory_energy": "J/byte",
    "compute_energy": "J/MAC",
}


@dataclass(frozen=True)
class Figure:
    value: float
    unit: str
    source: str
    trust: Trust


@dataclass(frozen=True)
class Profile:
    """One kind of device. `figures` has the keys of UNITS; the properties are what a model uses, after efficiency."""

    name: str
    description: str
    figures: dict[str, Figure]

    @property
    def memory_bytes(self) -> int:
        return int(self.figures["memory"].value)

    @property
    def memory_bandwidth_bytes_per_second(self) -> float:
        return self.figures["memory_bandwidth"].value * self.figures["memory_bandwidth_efficiency"].value

    @property
    def macs_per_second(self) -> float:
        return self.figures["compute"].value * self.figures["compute_efficiency"].value

    @property
    def launch_seconds(self) -> float:
        return self.figures["launch"].value

    @property
    def idle_watts(self) -> float:
        return self.figures["idle_power"].value

    @property
    def tdp_watts(self) -> float:
        return self.figures["tdp"].value

    @property
    def joules_per_byte(self) -> float:
        return self.figures["memory_energy"].value

    @property
    def joules_per_mac(self) -> float:
        return self.figures["compute_energy"].value

    @property
    def estimated(self) -> tuple[str, ...]:
        """Figures that nobody has published."""
        return tuple(name for name, figure in self.figures.items() if figure.trust == "estimated")


def list_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the program."""
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml")))


def load_profile(name_or_path: str) -> Profile:
    """A profile that comes with the program, or a TOML file of one's own (a name with a slash, or ending in .toml).

    Raises NotFound, or InvalidInput when the file is not a profile.
    """
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            return parse_profile(path.stem, path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise NotFound(
                f"cannot read profile {path}: {reason}", advice="name a profile, or a TOML file like those that come along"
            ) from error
    names = list_profiles()
    if name_or_path not in names:
        raise NotFound(f"no profile {name_or_path!r}", advice=f"choose one of {', '.join(names)}, or a TOML file")
    return parse_profile(name_or_path, (_folder() / f"{name_or_path}.toml").read_text())


def parse_profile(name: str, text: str) -> Profile:
    """Raises InvalidInput, naming the figure that is missing or wrong."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _bad(name, f"not TOML: {error}") from error
    description = data.pop("description", None)
    if not isinstance(description, str):
        raise _bad(name, "no description")
    for key in [*UNITS, *data]:
        if key not in data:
            raise _bad(name, f"no [{key}]")
        if key not in UNITS:
            raise _bad(name, f"unknown [{key}]")
    profile = Profile(name, description, {key: _figure(name, key, data[key]) for key in UNITS})
    if profile.tdp_watts <= profile.idle_watts:
        raise _bad(name, "[tdp] must be above [idle_power]")
    return profile


def _figure(profile: str, key: str, entry: Any) -> Figure:
    if not isinstance(entry, dict) or set(entry) != {"value", "unit", "source", "trust"}:
        raise _bad(profile, f"[{key}] must have value, unit, source and trust, no more")
    value, unit, source, trust = entry["value"], entry["unit"], entry["source"], entry["trust"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise _bad(profile, f"[{key}] value must be a number above 0")
    if unit != UNITS[key]:
        raise _bad(profile, f"[{key}] unit must be {UNITS[key]!r}")
    if unit == "ratio" and value > 1:
        raise _bad(profile, f"[{key}] is a ratio, at most 1")
    if not isinstance(source, str) or not source:
        raise _bad(profile, f"[{key}] must name its source")
    if trust not in get_args(Trust):
        raise _bad(profile, f"[{key}] trust must be one of {', '.join(get_args(Trust))}")
    return Figure(float(value), unit, source, trust)


def _bad(profile: str, detail: str) -> InvalidInput:
    return InvalidInput(f"profile {profile}: {detail}", advice=f"compare it with one that comes along, in {_folder()}")


def _folder() -> Any:
    return files("sim_devices") / "profiles"
