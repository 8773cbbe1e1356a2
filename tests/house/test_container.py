"""The image and the compose file: they name commands and files that exist, and confine what they run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.cli.service import _check_options
from tests.fleet.cli.conftest import glmfleet  # noqa: F401
from tests.support.command import Command

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILE = (ROOT / "Containerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
PACKAGES = {"protos", "quantize", "device", "sim_devices", "fleet"}


def test_the_image_is_built_of_what_is_needed_and_no_more() -> None:
    copied = {word for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", CONTAINERFILE) for word in line.split()[:-1]}
    assert copied == {*PACKAGES, "pyproject.toml", "README.md", "LICENSE", "requirements.lock"}
    assert all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / ".containerignore").read_text()
    assert ignored == (ROOT / ".dockerignore").read_text()
    assert {line[1:] for line in ignored.splitlines() if line.startswith("!")} == copied


def test_it_runs_without_rights_and_by_the_lock_file() -> None:
    user = re.findall(r"(?m)^USER (.*)$", CONTAINERFILE)
    assert user == ["7400:7400"]
    assert "--require-hashes --requirement requirements.lock" in CONTAINERFILE
    assert "--no-deps" in CONTAINERFILE


def commands() -> list[list[str]]:
    entry, default, health = (
        json.loads(re.findall(rf"(?m)^{word} (?:.* CMD )?(\[.*\])$", CONTAINERFILE)[0]) for word in ("ENTRYPOINT", "CMD", "HEALTHCHECK.*")
    )
    assert entry == ["glmfleet"]
    texts = [" ".join(COMPOSE["services"]["devices"]["entrypoint"]), " ".join(COMPOSE["services"]["devices"]["healthcheck"]["test"])]
    within = [words.split() for text in texts for words in re.findall(r"glmfleet ([a-z][^|&)]*)", text)]
    return [default, health[1:], COMPOSE["services"]["coordinator"]["command"], *within]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_in_them_is_one(words: list[str], glmfleet: Command) -> None:
    if words[0] == "serve":
        _check_options("serve", tuple(words[1:]))
        return
    assert glmfleet(*words, "--help")[0] == 0
    with_options = glmfleet(*words, "--no-such-option")
    assert with_options[0] == 2
    assert "No such option: --no-such-option" in with_options[2]  # and not one of ours


@pytest.mark.parametrize("name", ["coordinator", "devices"])
def test_each_service_is_confined(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["volumes"] == ["home:/var/lib/glmfleet"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
