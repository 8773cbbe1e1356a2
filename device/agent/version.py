"""The version of this package, as a device tells it."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = "glmfleet"
_CHECKOUT = Path(__file__).resolve().parents[2]


def agent_version(package: str = PACKAGE, checkout: Path = _CHECKOUT) -> str:
    """As it was installed; of a checkout that was not, what its pyproject.toml says; "unknown" where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        pass
    try:
        project = tomllib.loads((checkout / "pyproject.toml").read_text()).get("project", {})
    except (OSError, ValueError):
        return "unknown"
    return str(project.get("version", "unknown")) if project.get("name") == package else "unknown"
