"""Power monitors of boards that Linux shows under /sys/class/hwmon: INA3221 (Jetson), INA226, INA219 and their kin.

Source: Linux kernel, Documentation/hwmon/sysfs-interface.rst (power in µW, in in mV, curr in mA), ina3221.rst and ina2xx.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HWMON = Path("/sys/class/hwmon")
CHIPS = {"ina3221", "ina219", "ina220", "ina226", "ina230", "ina231", "ina238", "ina260"}
# Rails that carry the whole board, by the names that Jetson's device trees give them: the others lie behind them.
WHOLE_BOARD = {"VDD_IN", "POM_5V_IN"}
UNUSED = {"NC"}  # not connected, on the same boards
# INA3221 has three channels; what is numbered higher are sums and shunts.
CHANNELS = range(1, 4)


@dataclass(frozen=True)
class Rail:
    """One channel of a monitor."""

    folder: Path
    channel: int
    label: str
    has_power: bool  # the chip multiplies by itself

    def watts(self) -> float:
        """Raises OSError, ValueError."""
        if self.has_power:
            return self._figure("power") / 1e6
        return self._figure("in") * self._figure("curr") / 1e6

    def _figure(self, kind: str) -> int:
        return int((self.folder / f"{kind}{self.channel}_input").read_text())


class BoardMonitor:
    """The whole board's rail where one is known by its name, else the sum of those that are measured."""

    def __init__(self, rails: tuple[Rail, ...]) -> None:
        whole = tuple(rail for rail in rails if rail.label in WHOLE_BOARD)
        self._rails = whole[:1] or rails

    @property
    def what(self) -> str:
        names = ", ".join(rail.label for rail in self._rails)
        return f"the board ({names})" if self._rails[0].label in WHOLE_BOARD else f"its rails {names}"

    @classmethod
    def find(cls, root: Path = HWMON) -> BoardMonitor | None:
        """None where no monitor is known, or none can be read."""
        rails = tuple(rail for folder in _folders(root) for rail in _rails(folder))
        return cls(rails) if rails else None

    def watts(self) -> float:
        return sum(rail.watts() for rail in self._rails)

    def close(self) -> None:
        """Nothing was opened."""


def _folders(root: Path) -> list[Path]:
    found = sorted(root.iterdir()) if root.is_dir() else []
    return [folder for folder in found if _text(folder / "name") in CHIPS]


def _rails(folder: Path) -> list[Rail]:
    found = []
    for channel in CHANNELS:
        label = _text(folder / f"in{channel}_label") or f"{folder.name} {channel}"
        rail = Rail(folder, channel, label, has_power=(folder / f"power{channel}_input").exists())
        try:
            rail.watts()
        except (OSError, ValueError):  # switched off, or not there
            continue
        if label not in UNUSED:
            found.append(rail)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
