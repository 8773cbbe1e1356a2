"""Linux RAPL: energy counters of the processor's packages."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class Rapl:
    """Energy counters of all CPU packages.

    Source: Linux kernel, Documentation/power/powercap/powercap.rst (energy_uj wraps at max_energy_range_uj).
    """

    what = "the CPU package (RAPL)"

    def __init__(self, domains: list[tuple[Path, int]]) -> None:
        self._domains = [(path, range_uj, self._read(path)) for path, range_uj in domains]
        self._last = [first for _, _, first in self._domains]
        self._total_uj = 0
        self._reading = threading.Lock()  # runs are metered in their thread, samples on the event loop

    @classmethod
    def find(cls, root: Path = POWERCAP) -> Rapl | None:
        """None where there is no RAPL, or it may not be read (since Linux 5.10 only by root)."""
        domains = []
        try:
            for folder in sorted(root.glob("intel-rapl:*")):
                # A package; its parts are counted in it, and it is counted in "psys", where that is there.
                if folder.name.count(":") == 1 and (folder / "name").read_text().startswith("package"):
                    domains.append((folder / "energy_uj", int((folder / "max_energy_range_uj").read_text())))
            return cls(domains) if domains else None
        except (OSError, ValueError):
            return None

    def joules(self) -> float:
        """Since this object was made; monotonic. A counter that can no longer be read stands still."""
        with self._reading:
            for index, (path, range_uj, _) in enumerate(self._domains):
                with contextlib.suppress(OSError, ValueError):
                    now = self._read(path)
                    self._total_uj += (now - self._last[index]) % (range_uj + 1)
                    self._last[index] = now
            return self._total_uj / 1e6

    def blind_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        """Nothing was opened."""

    @staticmethod
    def _read(path: Path) -> int:
        return int(path.read_text())
