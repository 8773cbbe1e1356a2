"""A made-up powercap folder."""

from __future__ import annotations

from pathlib import Path

RANGE_UJ = 1_000_000


def add_domain(root: Path, number: str, value_uj: int, name: str = "package-0") -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (folder / "energy_uj").write_text(f"{value_uj}\n")
    return folder / "energy_uj"
