"""Profiles of chips' cores: figures with unit, source and trust, and which mechanisms their generic and co-designed variants have."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast, get_args

from protos.chip.core import MECHANISMS, Core, Dataflow, Mechanism
from protos.errors import InvalidInput, NotFound
from sim_devices.profiles import Figure, Trust, figure_of

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
# Beyond these no chip is one, and a compiler would be busy for hours.
_LARGEST = {"arrays": 1024, "array_rows": 1024, "array_columns": 1024, "scratchpad": 1 << 34, "accumulators": 1 << 30, "lanes": 1 << 20}


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
        return tuple(name for name, figure in self.figures.items() if figure.trust == "estimated")


def list_cores() -> tuple[str, ...]:
    """Names of the profiles that come with the program."""
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml")))


def load_core(name_or_path: str) -> CoreProfile:
    """A profile that comes with the program, or a TOML file of one's own (a name with a slash, or ending in .toml).

    Raises NotFound, or InvalidInput when the file is not a profile.

    >>> load_core("edge-npu").core("generic").width
    96
    """
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            return parse_core(path.stem, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise NotFound(f"cannot read chip profile {path}: {reason}", advice=_ADVICE) from error
    names = list_cores()
    if name_or_path not in names:
        raise NotFound(f"no chip profile {name_or_path!r}", advice=f"choose one of {', '.join(names)}, or a TOML file")
    return parse_core(name_or_path, (_folder() / f"{name_or_path}.toml").read_text(encoding="utf-8"))


def parse_core(name: str, text: str) -> CoreProfile:
    """Raises InvalidInput, naming the figure that is missing or wrong."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _bad(name, f"not TOML: {error}") from error
    description, dataflow = data.pop("description", None), data.pop("dataflow", None)
    if not isinstance(description, str):
        raise _bad(name, "no description")
    if not isinstance(dataflow, dict) or dataflow.get("value") not in get_args(Dataflow) or dataflow.get("trust") not in get_args(Trust):
        raise _bad(name, f"[dataflow] must have value ({' or '.join(get_args(Dataflow))}), source and trust")
    variants = {variant: data.pop(variant, None) for variant in VARIANTS}
    for key in [*CORE_UNITS, *data]:
        if key not in data:
            raise _bad(name, f"no [{key}]")
        if key not in CORE_UNITS:
            raise _bad(name, f"unknown [{key}]")
    figures = {key: _figure(name, key, data[key]) for key in CORE_UNITS}
    mechanisms, own = {}, {}
    for variant, table in variants.items():
        if not isinstance(table, dict) or not isinstance(listed := table.pop("mechanisms", None), list):
            raise _bad(name, f"[{variant}] must have mechanisms, a list")
        if unknown := [one for one in listed if one not in MECHANISMS]:
            raise _bad(name, f"[{variant}] has no mechanism {str(unknown[0])[:40]!r}: there are {', '.join(MECHANISMS)}")
        if more := [key for key in table if key not in CORE_UNITS]:
            raise _bad(name, f"unknown [{variant}.{more[0][:40]}]")
        mechanisms[variant] = frozenset(cast(list[Mechanism], listed))
        own[variant] = {key: _figure(name, key, entry) for key, entry in table.items()}
    return CoreProfile(name, description, dataflow["value"], figures, mechanisms, own)


def _figure(profile: str, key: str, entry: Any) -> Figure:
    figure = figure_of(f"chip profile {profile}", key, entry, CORE_UNITS[key], _ADVICE)
    if figure.unit in _WHOLE and figure.value != int(figure.value):
        raise _bad(profile, f"[{key}] must be a whole number")
    if figure.value > _LARGEST.get(key, 1e18):
        raise _bad(profile, f"[{key}] must be at most {_LARGEST[key]:,}")
    return figure


def _bad(profile: str, detail: str) -> InvalidInput:
    return InvalidInput(f"chip profile {profile}: {detail}", advice=_ADVICE)


def _folder() -> Any:
    return files("sim_devices") / "chip" / "profiles"


_ADVICE = "compare it with one that comes along: docs/isa.md says where they are"
