"""Profiles of accelerators: published or estimated figures, each with its unit, source and trust."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from protos.dialects import DIALECT, ISA_DIALECT
from protos.physics.roofline import Figures, Roofline
from protos.physics.thermal import Thermal
from protos.physics.timing import TimingModel
from sim_devices.figures import Figure, FigureFiles, estimated, is_path

# By what modelled time and energy are: the figures of the profile, or programs of its chip.
Timing = Literal["roofline", "compiled"]
TIMINGS: tuple[Timing, ...] = get_args(Timing)
DIALECTS = (DIALECT, ISA_DIALECT)
FILES = FigureFiles("profile", "profiles")
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
class Profile:
    """One kind of device. `figures` has the keys of UNITS, and may have those of OPTIONAL_UNITS.

    `chip` is the chip profile of its accelerator (a name, or a path; "": none is known), in this `variant`; `timed_by` what its modelled
    time is, `dialect` what it runs.
    """

    name: str
    description: str
    figures: dict[str, Figure]
    chip: str = ""
    variant: str = "generic"
    timed_by: Timing = "roofline"
    dialect: str = DIALECT

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
    def roofline(self) -> TimingModel:
        return Roofline(self.effective)

    def run_as(self, timing: str = "", dialect: str = "") -> Profile:
        """The same board, timed and spoken to otherwise; "": as before, but that what runs programs is timed by them. Raises
        InvalidInput."""
        if timing and timing not in TIMINGS:
            raise FILES.bad(self.name, f"timing {timing[:40]!r} is none of {', '.join(TIMINGS)}")
        if dialect and dialect not in DIALECTS:
            raise FILES.bad(self.name, f"dialect {dialect[:40]!r} is none of {', '.join(DIALECTS)}")
        timed: Timing = timing or ("compiled" if dialect == ISA_DIALECT else self.timed_by)
        changed = replace(self, timed_by=timed, dialect=dialect or self.dialect)
        if not self.chip and (changed.timed_by == "compiled" or changed.dialect == ISA_DIALECT):
            raise FILES.bad(self.name, "it names no chip whose programs could be compiled")
        return changed

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
        return estimated(self.figures)


def list_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the program."""
    return FILES.names()


def load_profile(name_or_path: str) -> Profile:
    """A profile that comes with the program, or a TOML file of one's own (a name with a slash, or ending in .toml).

    Raises NotFound, or InvalidInput when the file is not a profile.

    >>> load_profile("raspberry-pi-5").memory_bytes > 2**32
    True
    """
    name, text, folder = FILES.read(name_or_path)
    return parse_profile(name, text, folder)


def parse_profile(name: str, text: str, folder: Path = Path()) -> Profile:
    """A chip that is a file is sought from `folder`. Raises InvalidInput, naming the figure that is missing or wrong."""
    description, data = FILES.parse(name, text)
    chip, variant, timing, dialect = (_word(name, data, key) for key in ("chip", "variant", "timing", "dialect"))
    if is_path(chip):
        chip = str((folder / chip).absolute())
    profile = Profile(name, description, FILES.figures(name, data, UNITS, OPTIONAL_UNITS), chip, variant or "generic")
    if profile.tdp_watts <= profile.idle_watts:
        raise FILES.bad(name, "[tdp] must be above [idle_power]")
    if not profile.thermal.ambient_celsius < profile.thermal.resume_celsius < profile.thermal.throttle_celsius:
        raise FILES.bad(name, "[ambient], [resume] and [throttle] must rise in this order")
    return profile.run_as(timing, dialect)


def _word(name: str, data: dict[str, Any], key: str) -> str:
    """Takes it out. Raises InvalidInput."""
    word = data.pop(key, "")
    if not isinstance(word, str) or not word.isprintable() or len(word) > 1000:
        raise FILES.bad(name, f"{key} must be a text in one line")
    return word
