"""The agent's version is the package's, written down once."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from device.agent.version import PACKAGE, agent_version

ROOT = Path(__file__).resolve().parents[3]
NOT_INSTALLED = "glmfleet-that-is-not-installed"


def test_it_is_that_of_the_installed_package() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"] == PACKAGE
    assert agent_version() == version(PACKAGE)


def test_of_a_checkout_that_is_not_installed_it_is_the_project_s(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "{NOT_INSTALLED}"\nversion = "3.2.1"\n')
    assert agent_version(NOT_INSTALLED, tmp_path) == "3.2.1"


@pytest.mark.parametrize(
    "text", [None, "", "no toml", '[project]\nname = "another"\nversion = "1"\n', f'[project]\nname = "{NOT_INSTALLED}"\n']
)
def test_where_nothing_says_so_it_is_unknown(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    assert agent_version(NOT_INSTALLED, tmp_path) == "unknown"
