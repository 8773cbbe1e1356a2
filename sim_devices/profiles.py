"""Profiles of accelerators: published or estimated figures, each with its unit, source and trust."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from protos.errors import InvalidInput, NotFound
from protos.physics.roofline import Figures, Roofline
from protos.physics.thermal import Thermal
from protos.physics.timing import TimingModel

Trust = Literal["vendor", "press", "community", "estimated"]

# What every profile states, and in which unit. Compute counts dense int8 multiply-accumulates: half of the TOPS of a data sheet.
UNITS = {
    "memory": "bytes",
    "memory_bandwidth": "bytes/s",
    "compute": "int8 MAC/s",
    "chip_bandwidth": "bytes/s",
    "linear_bandwidth_efficiency": "ratio",
    "linear_compute_efficiency": "ratio",
    "attention_bandwidth_efficiency": "ratio",
    "attention_compute_efficiency": "ratio",
    "launch": "s",
    "operator_launch": "s",
    "idle_power": "W",
    "tdp": "W",
    "memory_energy": "J/byte",
    "chip_energy": "J/byte",
    "compute_energy": "J/MAC",
    "link_energy": "J/byte",
    "thermal_resistance": "K/W",
    "heat_capacity": "J/K",
    "ambient": "°C",
    "throttle": "°C",
    "resume": "°C",
    "throttled_speed": "ratio",
}
# What only some have.
OPTIONAL_UNITS = {"battery": "J"}


@dataclass(frozen=True)
class Figure:
    value: float
    unit: str
    source: str
    trust: Trust


@dataclass(frozen=True)
class Profile:
    """One kind of device. `figures` has the keys of UNITS, and may have those of OPTIONAL_UNITS."""

    name: str
    description: str
    figures: dict[str, Figure]

    @property
    def memory_bytes(self) -> int:
        return int(self.figures["memory"].value)

    @property
    def effective(self) -> Figures:
        """What the models use, after efficiency."""
        value = {name: figure.value for name, figure in self.figures.items()}
        bandwidth, compute = value["memory_bandwidth"], value["compute"]
        return Figures(
            linear_bytes_per_second=bandwidth * value["linear_bandwidth_efficiency"],
            linear_macs_per_second=compute * value["linear_compute_efficiency"],
            attention_bytes_per_second=bandwidth * value["attention_bandwidth_efficiency"],
            attention_macs_per_second=compute * value["attention_compute_efficiency"],
            chip_bytes_per_second=value["chip_bandwidth"],
            launch_seconds=value["launch"],
            operator_seconds=value["operator_launch"],
            idle_watts=value["idle_power"],
            cap_watts=value["tdp"],
            joules_per_byte=value["memory_energy"],
            joules_per_chip_byte=value["chip_energy"],
            joules_per_mac=value["compute_energy"],
            joules_per_link_byte=value["link_energy"],
        )

    @property
    def timing(self) -> TimingModel:
        return Roofline(self.effective)

    @property
    def thermal(self) -> Thermal:
        value = {name: figure.value for name, figure in self.figures.items()}
        return Thermal(
            kelvin_per_watt=value["thermal_resistance"],
            joules_per_kelvin=value["heat_capacity"],
            ambient_celsius=value["ambient"],
            throttle_celsius=value["throttle"],
            resume_celsius=value["resume"],
            throttled_speed=value["throttled_speed"],
        )

    @property
    def idle_watts(self) -> float:
        return self.figures["idle_power"].value

    @property
    def tdp_watts(self) -> float:
        return self.figures["tdp"].value

    @property
    def battery_joules(self) -> float | None:
        battery = self.figures.get("battery")
        return battery.value if battery else None

    def in_ambient(self, celsius: float) -> Profile:
        """The same board at another place."""
        ambient = replace(self.figures["ambient"], value=celsius, source="of the place, as it was started")
        return replace(self, figures={**self.figures, "ambient": ambient})

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

    >>> load_profile("raspberry-pi-5").memory_bytes > 2**32
    True
    """
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            return parse_profile(path.stem, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise NotFound(
                f"cannot read profile {path}: {reason}", advice="name a profile, or a TOML file like those that come along"
            ) from error
    names = list_profiles()
    if name_or_path not in names:
        raise NotFound(f"no profile {name_or_path!r}", advice=f"choose one of {', '.join(names)}, or a TOML file")
    return parse_profile(name_or_path, (_folder() / f"{name_or_path}.toml").read_text(encoding="utf-8"))


def parse_profile(name: str, text: str) -> Profile:
    """Raises InvalidInput, naming the figure that is missing or wrong."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _bad(name, f"not TOML: {error}") from error
    description = data.pop("description", None)
    if not isinstance(description, str):
        raise _bad(name, "no description")
    units = UNITS | OPTIONAL_UNITS
    for key in [*UNITS, *data]:
        if key not in data:
            raise _bad(name, f"no [{key}]")
        if key not in units:
            raise _bad(name, f"unknown [{key}]")
    profile = Profile(
        name, description, {key: figure_of(f"profile {name}", key, data[key], units[key], _advice()) for key in units if key in data}
    )
    if profile.tdp_watts <= profile.idle_watts:
        raise _bad(name, "[tdp] must be above [idle_power]")
    if not profile.thermal.ambient_celsius < profile.thermal.resume_celsius < profile.thermal.throttle_celsius:
        raise _bad(name, "[ambient], [resume] and [throttle] must rise in this order")
    return profile


def figure_of(where: str, key: str, entry: Any, wanted: str, advice: str) -> Figure:
    """One figure of a profile's file, in the unit `wanted`. Raises InvalidInput that begins with `where`."""

    def bad(detail: str) -> InvalidInput:
        return InvalidInput(f"{where}: [{key}] {detail}", advice=advice)

    if not isinstance(entry, dict) or set(entry) != {"value", "unit", "source", "trust"}:
        raise bad("must have value, unit, source and trust, no more")
    value, unit, source, trust = entry["value"], entry["unit"], entry["source"], entry["trust"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise bad("value must be a number above 0")
    if unit != wanted:
        raise bad(f"unit must be {wanted!r}")
    if unit == "ratio" and value > 1:
        raise bad("is a ratio, at most 1")
    if not isinstance(source, str) or not source:
        raise bad("must name its source")
    if trust not in get_args(Trust):
        raise bad(f"trust must be one of {', '.join(get_args(Trust))}")
    return Figure(float(value), unit, source, trust)


def _bad(profile: str, detail: str) -> InvalidInput:
    return InvalidInput(f"profile {profile}: {detail}", advice=_advice())


def _advice() -> str:
    return f"compare it with one that comes along, in {_folder()}"


def _folder() -> Any:
    return files("sim_devices") / "profiles"
