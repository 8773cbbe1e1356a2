"""A fleet as a file (FLEET.toml): devices, the links between them, and what happens to both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

from protos.errors import FleetError, InvalidInput, NotFound
from sim_devices import quantities
from sim_devices.faults import COORDINATOR, parse_fault
from sim_devices.figures import is_path
from sim_devices.links import LinkRule, LinkShape, shape_between
from sim_devices.profiles import DIALECTS, TIMINGS, load_profile
from sim_devices.scenario import PlannedFault, timeline
from sim_devices.tables import Table, read_table, read_text

Pace = Literal["fast", "realtime"]

MOST_DEVICES = 256  # each is a process
DEVICE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_PATTERN = re.compile(r"[a-z0-9*][a-z0-9*-]{0,39}")
_LONGEST_SECONDS = 366 * 86400.0
_LONGEST_DELAY_SECONDS = 60.0


@dataclass(frozen=True)
class FleetDevice:
    name: str
    profile: str  # a name, or the path of a TOML file
    pace: Pace
    memory_bytes: int | None  # None: the profile's
    ambient_celsius: float | None  # None: the profile's
    labels: Mapping[str, str]
    timing: str = ""  # these two: "": the profile's
    dialect: str = ""


@dataclass(frozen=True)
class FleetFile:
    """`seed` decides all that is left to chance: jitter, loss, and what faults leave open."""

    name: str
    description: str
    seed: int
    devices: tuple[FleetDevice, ...]
    links: tuple[LinkRule, ...]
    faults: tuple[PlannedFault, ...]

    def shape(self, source: str, target: str) -> LinkShape:
        """Of what goes from one device, or "coordinator", to another."""
        return shape_between(self.links, source, target)


@dataclass(frozen=True)
class Scenario:
    """The faults of a file, which need not say anything about devices."""

    name: str
    seed: int
    faults: tuple[PlannedFault, ...]


def gallery() -> tuple[str, ...]:
    """Names of the fleets that come with the program."""
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in _gallery().iterdir() if entry.name.endswith(".toml")))


def gallery_text(name: str) -> str:
    """The file. Raises NotFound."""
    if name not in gallery():
        raise NotFound(f"no fleet {name!r} comes with the program", advice=f"choose one of {', '.join(gallery())}, or a TOML file")
    return str((_gallery() / f"{name}.toml").read_text(encoding="utf-8"))


def load_fleet(name_or_path: str) -> FleetFile:
    """A fleet of the gallery by name, or a TOML file (with a slash, or ending in .toml). Raises NotFound, InvalidInput."""
    if not is_path(name_or_path):
        return parse_fleet(name_or_path, gallery_text(name_or_path))
    path = Path(name_or_path)
    return parse_fleet(path.name, read_text(path, "the fleet"), path.parent)


def load_scenario(name_or_path: str) -> Scenario:
    """Of a fleet file, of the gallery too, or of a file with seed and faults alone. Raises NotFound, InvalidInput."""
    text = read_text(Path(name_or_path), "the scenario") if is_path(name_or_path) else gallery_text(name_or_path)
    return parse_scenario(Path(name_or_path).name, text, Path(name_or_path).parent)


def parse_scenario(name: str, text: str, folder: Path = Path()) -> Scenario:
    """As `parse_fleet`, for its seed and faults, with or without devices."""
    table = read_table(name, text)
    if "devices" in table:
        fleet = parse_fleet(name, text, folder)
        return Scenario(fleet.name, fleet.seed, fleet.faults)
    table.text("description", "")
    seed, faults = _seed(table), table.tables("faults")
    table.end()
    return Scenario(name, seed, tuple(_fault(one) for one in faults))


def parse_fleet(name: str, text: str, folder: Path = Path()) -> FleetFile:
    """`name` of the file, for errors; profiles that are files are sought from `folder`. Raises InvalidInput naming file and key."""
    table = read_table(name, text)
    description, seed = table.text("description", "", longest=1000), _seed(table)
    pace = table.choice("pace", "fast", ("fast", "realtime"))
    device_tables, link_tables, fault_tables = table.tables("devices"), table.tables("links"), table.tables("faults")
    table.end()
    devices = tuple(device for one in device_tables for device in _devices(one, pace, folder))
    if not 1 <= len(devices) <= MOST_DEVICES:
        raise table.bad(f"{len(devices)} devices", f"from 1 to {MOST_DEVICES}, each group of them begun with [[devices]]")
    names = [device.name for device in devices]
    for before, after in pairwise(sorted(names)):
        if before == after:
            raise table.bad(f"two devices are called {after!r}", "give each group of devices a name of its own")
    links = tuple(_link(one, names) for one in link_tables)
    faults = tuple(_fault(one) for one in fault_tables)
    for one, fault in zip(fault_tables, faults, strict=True):
        try:
            timeline([fault], names, seed)
        except FleetError as error:
            raise one.bad(error.detail, error.advice) from error
    return FleetFile(name, description, seed, devices, links, faults)


def _seed(table: Table) -> int:
    return table.whole("seed", 0, 0, 2**63 - 1)


def _devices(table: Table, pace: str, folder: Path) -> list[FleetDevice]:
    """`count` of them, named NAME-1, NAME-2 …; without `count` one, named NAME."""
    name = table.parsed("name", _device_name, "")
    if not name:
        raise table.wrong("name", "a to z, 0 to 9 and -, at most 40")
    profile = table.text("profile")
    if is_path(profile):
        profile = str((folder / profile).absolute())
    timing, dialect = table.choice("timing", "", ("", *TIMINGS)), table.choice("dialect", "", ("", *DIALECTS))
    try:
        load_profile(profile).run_as(timing, dialect)
    except FleetError as error:
        raise table.bad(error.detail, error.advice) from error
    names = [f"{name}-{number}" for number in range(1, table.whole("count", 0, 1, MOST_DEVICES) + 1)] if "count" in table else [name]
    if not DEVICE_NAME.fullmatch(names[-1]):
        raise table.wrong("name", "at most 40 characters, with the number behind it", name)
    labels = table.table("labels")
    found = {key: labels.parsed(key, lambda text, key=key: _label(key, text), "") for key in labels.keys()}  # type: ignore[misc]  # noqa: SIM118
    chosen = cast(Pace, table.choice("pace", pace, ("fast", "realtime")))
    memory = table.parsed("memory", quantities.size_bytes, None)
    ambient = table.number("ambient", None, -60, 90)
    table.end()
    return [FleetDevice(each, profile, chosen, memory, ambient, found, timing, dialect) for each in names]


def _device_name(text: str) -> str:
    if not DEVICE_NAME.fullmatch(text) or text == COORDINATOR:
        raise ValueError(f"a to z, 0 to 9 and -, at most 40, not {COORDINATOR!r}")
    return text


def _label(key: str, text: str) -> str:
    if not (_LABEL.fullmatch(key) and _LABEL.fullmatch(text)):
        raise ValueError("for keys and values letters, digits, ., _, / and -, at most 63")
    return text


def _link(table: Table, names: Sequence[str]) -> LinkRule:
    """`between = [A, B]` is both directions, `from` and `to` are one."""
    both_ways = "between" in table
    ends = table.texts("between", 2) if both_ways else (table.text("from"), table.text("to"))
    for end in ends:
        rule = LinkRule(end, "*", LinkShape(), False)
        if not _PATTERN.fullmatch(end) or not any(rule.covers(name, name) for name in [*names, COORDINATOR]):
            raise table.bad(f"no device {end[:40]!r}", f"names of devices here, * patterns of them, or {COORDINATOR!r}")
    delay, jitter = (table.parsed(key, _delay, 0.0) for key in ("delay", "jitter"))
    if jitter > delay:
        raise table.bad("jitter is above delay", "delay is even between delay - jitter and delay + jitter")
    shape = LinkShape(delay, jitter, table.parsed("rate", quantities.bits_per_second, None), table.parsed("loss", quantities.fraction, 0.0))
    table.end()
    return LinkRule(ends[0], ends[1], shape, both_ways)


def _fault(table: Table) -> PlannedFault:
    """`at` is a moment, or two with ".." between them."""
    try:
        fault = parse_fault(table.text("do"))
    except InvalidInput as error:
        raise table.bad(error.detail, error.advice) from error
    earliest, latest = table.parsed("at", _moments, (-1.0, -1.0))
    if latest < 0:
        raise table.wrong("at", 'when, for example "10s"; or between when, "10s..60s"')
    lasting = table.parsed("for", _lasting, None)
    table.end()
    return PlannedFault(fault, earliest, latest, lasting)


def _delay(text: str) -> float:
    value = quantities.seconds(text)
    if value > _LONGEST_DELAY_SECONDS:
        raise ValueError(f"at most {_LONGEST_DELAY_SECONDS:g}s")
    return value


def _lasting(text: str) -> float:
    value = quantities.seconds(text)
    if not 0 < value <= _LONGEST_SECONDS:
        raise ValueError("above 0s, at most 366d")
    return value


def _moments(text: str) -> tuple[float, float]:
    first, dots, last = text.partition("..")
    earliest = quantities.seconds(first)
    latest = quantities.seconds(last) if dots else earliest
    if not earliest <= latest <= _LONGEST_SECONDS:
        raise ValueError('"10s", or "10s..60s" with the earlier first')
    return earliest, latest


def _gallery() -> Path:
    return cast(Path, files("sim_devices") / "gallery")
