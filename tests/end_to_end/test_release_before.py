"""This version beside the release before it: a coordinator and agents one version apart, as real processes of both."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fleet.home import Home
from tests.support.processes import ROOT, Glmfleet, processes_naming, wait_for

RELEASE_BEFORE = "c1f1665d5b75682604231aaac085ea1ade98a001"  # pragma: allowlist secret


@pytest.fixture(scope="module")
def tree_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the release before, out of git's history; where that is not complete, nothing here can be tested."""
    archive = subprocess.run(["git", "archive", RELEASE_BEFORE], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"the release before is not in this copy's history: {archive.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.2, Debian's, has none yet
        files.extractall(folder, **safely)  # type: ignore[arg-type]  # our own history
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    Glmfleet(home)("sim", "down")
    assert processes_naming(str(home)) == []


def of(tree: Path, home: Path) -> Glmfleet:
    """The command as it is in this source tree; without the folder that the tests run in, which would be found first."""
    return Glmfleet(home, {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"})


def done(glmfleet: Glmfleet, *arguments: object) -> None:
    result = glmfleet(*arguments)
    assert result.returncode == 0, result.stderr


def asked(home: Path, what: str) -> Any:
    """Of whichever version serves."""
    return httpx.get(f"{url(home)}/{what}", trust_env=False).json()


def told(home: Path, what: str, body: dict[str, object]) -> dict[str, Any]:
    """The last event of a stream."""
    answer = httpx.post(f"{url(home)}/{what}", json=body, trust_env=False, timeout=30)
    last = json.loads(next(line for line in reversed(answer.text.splitlines()) if line.startswith("data:")).removeprefix("data:"))
    assert isinstance(last, dict)
    return last


def deployed(home: Path) -> None:
    last = told(home, "deployments", {"model": "tiny", "context": 64, "stages": 2})
    assert last.get("kind") == "ready", last


def answered(home: Path) -> list[int]:
    last = told(home, "generate", {"prompt_ids": [72, 101, 108, 108, 111], "max_tokens": 8})
    assert (last["completion_tokens"], len(last["devices"])) == (8, 2), last
    return list(last["token_ids"])


def url(home: Path) -> str:
    running = Home(home).running_coordinator()
    assert running is not None
    return f"{running.url}/api/v1"


def paths_of_agents(home: Path) -> list[str]:
    """Where each simulated device of this home looks for its code first."""
    agents = [process for process in psutil.process_iter(["cmdline"]) if "sim_devices" in (process.info["cmdline"] or [])]
    return [agent.environ()["PYTHONPATH"] for agent in agents if any(str(home) in word for word in agent.info["cmdline"])]


def wait_online(home: Path, count: int) -> None:
    wait_for(lambda: [device["state"] for device in asked(home, "devices")] == ["online"] * count, 20)


def test_a_fleet_is_updated_piece_by_piece(home: Path, tree_before: Path, checkpoint: Path) -> None:
    before, now = of(tree_before, home), Glmfleet(home)
    done(before, "model", "import", checkpoint, "--name", "tiny")
    done(before, "sim", "up", "--devices", 1)
    done(now, "sim", "up", "--devices", 1)
    assert sorted(str(tree_before) in path for path in paths_of_agents(home)) == [False, True]
    with before.serving():  # the older coordinator, and a ring of an agent of each version
        wait_online(home, 2)
        deployed(home)
        token_ids = answered(home)
        held = sorted(line for device in asked(home, "devices") for line in device["stages"])
    with now.serving():  # takes the deployment over as it is
        wait_for(lambda: [deployment["state"] for deployment in asked(home, "deployments")] == ["ready"], 20)
        [deployment] = asked(home, "deployments")
        assert deployment["generation"] == 1
        devices = asked(home, "devices")
        assert sorted(line for device in devices for line in device["stages"]) == held
        assert [device["protocol_version"] for device in devices] == [1, 1]
        assert answered(home) == token_ids
        deployed(home)
        assert answered(home) == token_ids
    refused = before("serve", "--port", 0, "--interface", "127.0.0.1")
    assert refused.returncode == 1
    assert "has schema 3; this glmfleet reads 2" in refused.stderr
