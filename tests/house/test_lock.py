"""The house: the lock files hold what pyproject.toml asks for, each file by its hash, and no place to fetch it from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
RUN = ("coordinator", "device", "text", "sim")
EXTRAS = {"requirements.lock": RUN, "requirements-dev.lock": (*RUN, "dev")}


def asked_for(extras: tuple[str, ...]) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [requirement for line in lines if (requirement := Requirement(line)).name != project["name"]]


def locked(text: str) -> dict[str, set[str]]:
    """Versions by package; several where they depend on the version of Python. Fails for one without a hash."""
    found: dict[str, set[str]] = {}
    for entry in re.split(r"\n(?=\S)", text.replace("\\\n", " ")):
        if match := re.match(r"([\w.-]+)==(\S+)", entry):
            assert "--hash=sha256:" in entry, match[1]
            found.setdefault(canonicalize_name(match[1]), set()).add(match[2])
    return found


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_file_satisfies_the_project(name: str) -> None:
    versions = locked((ROOT / name).read_text())
    assert "setuptools" in versions  # builds the project itself
    for requirement in asked_for(EXTRAS[name]):
        found = versions.get(canonicalize_name(requirement.name))
        assert found, f"{requirement.name} is missing: make lock"
        assert all(requirement.specifier.contains(version) for version in found), f"{requirement}: {name} has {found}: make lock"


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_file_names_no_host(name: str) -> None:
    assert "://" not in (ROOT / name).read_text()


def test_the_tools_are_locked_beside_what_the_product_is_locked_to() -> None:
    product, tools = (locked((ROOT / name).read_text()) for name in EXTRAS)
    assert product.items() <= tools.items()


def test_an_entry_without_a_hash_is_found() -> None:
    assert locked("one==1.0 \\\n    --hash=sha256:00\n    # via two\n") == {"one": {"1.0"}}
    with pytest.raises(AssertionError):
        locked("one==1.0\ntwo==2.0 \\\n    --hash=sha256:00\n")
