"""Profiles of chips' cores: figures with unit, source and trust, and which mechanisms their generic and co-designed variants have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from protos.chip.core import LARGEST, MECHANISMS, Core, Dataflow, Mechanism
from protos.dialects import DIALECT
from sim_devices.figures import Figure, FigureFiles, Trust, estimated
from sim_devices.profiles import FILES as PROFILES
from sim_devices.profiles import Profile

FILES = FigureFiles("chip profile", "chip/profiles")
Variant = Literal["generic", "codesigned"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

# What every profile states, and in which unit.
CORE_UNITS = {
    "arrays": "count",
    "array_rows": "count",
    "array_columns": "count",
    "clock": "Hz",
    "scratchpad": "bytes",
    "accumulators": "bytes",
    "lanes": "count",
    "float_cycles": "count",
    "memory": "bytes",
    "memory_bandwidth": "bytes/s",
    "reachable": "ratio",
    "burst": "bytes",
    "dma_channels": "count",
    "dma_latency": "s",
    "launch": "s",
    "idle_power": "W",
    "compute_energy": "J/MAC",
    "float_energy": "J/MAC",
    "sram_energy": "J/byte",
    "memory_energy": "J/byte",
}
_WHOLE = {"count", "bytes"}


@dataclass(frozen=True)
class CoreProfile:
    """One kind of chip. `figures` has the keys of CORE_UNITS; a variant may have some of its own."""

    name: str
    description: str
    dataflow: Dataflow
    figures: dict[str, Figure]
    mechanisms: dict[Variant, frozenset[Mechanism]]
    own: dict[Variant, dict[str, Figure]]

    def core(self, variant: Variant) -> Core:
        value = {name: figure.value for name, figure in (self.figures | self.own[variant]).items()}
        return Core(
            name=f"{self.name} ({variant})",
            dataflow=self.dataflow,
            arrays=int(value["arrays"]),
            rows=int(value["array_rows"]),
            columns=int(value["array_columns"]),
            clock_hertz=value["clock"],
            scratchpad_bytes=int(value["scratchpad"]),
            accumulator_bytes=int(value["accumulators"]),
            lanes=int(value["lanes"]),
            float_cycles=int(value["float_cycles"]),
            dram_bytes=int(value["memory"]),
            dram_bytes_per_second=value["memory_bandwidth"],
            reachable=value["reachable"],
            burst_bytes=int(value["burst"]),
            dma_channels=int(value["dma_channels"]),
            dma_seconds=value["dma_latency"],
            launch_seconds=value["launch"],
            idle_watts=value["idle_power"],
            joules_per_mac=value["compute_energy"],
            joules_per_float_mac=value["float_energy"],
            joules_per_sram_byte=value["sram_energy"],
            joules_per_dram_byte=value["memory_energy"],
            mechanisms=self.mechanisms[variant],
        )

    @property
    def estimated(self) -> tuple[str, ...]:
        """Figures that nobody has published."""
        return estimated(self.figures)


def list_cores() -> tuple[str, ...]:
    """Names of the profiles that come with the program."""
    return FILES.names()


def load_core(name_or_path: str) -> CoreProfile:
    """A profile that comes with the program, or a TOML file of one's own (a name with a slash, or ending in .toml).

    Raises NotFound, or InvalidInput when the file is not a profile.

    >>> load_core("edge-npu").core("generic").width
    96
    """
    name, text, _ = FILES.read(name_or_path)
    return parse_core(name, text)


def parse_core(name: str, text: str) -> CoreProfile:
    """Raises InvalidInput, naming the figure that is missing or wrong."""
    description, data = FILES.parse(name, text)
    dataflow = data.pop("dataflow", None)
    if not isinstance(dataflow, dict) or dataflow.get("value") not in get_args(Dataflow) or dataflow.get("trust") not in get_args(Trust):
        raise FILES.bad(name, f"[dataflow] must have value ({' or '.join(get_args(Dataflow))}), source and trust")
    variants = {variant: data.pop(variant, None) for variant in VARIANTS}
    figures = _checked(name, FILES.figures(name, data, CORE_UNITS))
    mechanisms, own = {}, {}
    for variant, table in variants.items():
        if not isinstance(table, dict) or not isinstance(listed := table.pop("mechanisms", None), list):
            raise FILES.bad(name, f"[{variant}] must have mechanisms, a list")
        if unknown := [one for one in listed if one not in MECHANISMS]:
            raise FILES.bad(name, f"[{variant}] has no mechanism {str(unknown[0])[:40]!r}: there are {', '.join(MECHANISMS)}")
        if more := [key for key in table if key not in CORE_UNITS]:
            raise FILES.bad(name, f"unknown [{variant}.{more[0][:40]}]")
        mechanisms[variant] = frozenset(cast(list[Mechanism], listed))
        own[variant] = _checked(name, {key: FILES.figure(name, key, entry, CORE_UNITS[key]) for key, entry in table.items()})
    return CoreProfile(name, description, dataflow["value"], figures, mechanisms, own)


def core_of(profile: Profile) -> Core | None:
    """Of a board's chip; None where nothing that the board does needs one. Raises NotFound, InvalidInput."""
    if profile.timed_by == "roofline" and profile.dialect == DIALECT:
        return None
    for variant in VARIANTS:
        if profile.variant == variant:
            return load_core(profile.chip).core(variant)
    raise PROFILES.bad(profile.name, f"variant {profile.variant[:40]!r} is none of {', '.join(VARIANTS)}")


def _checked(name: str, figures: dict[str, Figure]) -> dict[str, Figure]:
    for key, figure in figures.items():
        if figure.unit in _WHOLE and figure.value != int(figure.value):
            raise FILES.bad(name, f"[{key}] must be a whole number")
        if figure.value > LARGEST.get(key, 1e18):
            raise FILES.bad(name, f"[{key}] must be at most {LARGEST[key]:,}")
    return figures
