"""Two pipelines of one deployment on simulated devices: one dies, and the other goes on serving."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.client import CoordinatorClient, connect
from fleet.home import Home
from tests.support.processes import Glmfleet, processes_naming, wait_for

ASKED = GenerateRequest(prompt_ids=(72, 101, 108, 108, 111), max_tokens=24, ignore_eos=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Glmfleet]:
    """Two devices with a pipeline each; nothing of them is left at the end."""
    home = tmp_path_factory.mktemp("pair") / "home"
    glmfleet = Glmfleet(home)
    imported = glmfleet("model", "import", checkpoint, "--name", "tiny")
    assert imported.returncode == 0, imported.stderr
    try:
        up = glmfleet("sim", "up", "--devices", 2, "--profile", "rk3588")
        assert up.returncode == 0, up.stderr
        with glmfleet.serving():
            wait_for(lambda: list(glmfleet.states().values()) == ["online"] * 2, 20)
            deployed = glmfleet("deploy", "tiny", "--replicas", 2, "--context", 256)
            assert deployed.returncode == 0, deployed.stderr
            yield glmfleet
    finally:
        down = glmfleet("sim", "down")
    assert down.returncode == 0, down.stderr
    assert processes_naming(str(home)) == []


def ask(home: Path) -> GenerateResult:
    with connect(Home(home)) as client:
        *_, result = client.generate(ASKED)
    assert isinstance(result, GenerateResult)
    return result


def open_on(client: CoordinatorClient) -> list[str]:
    """The pipelines of the requests that have not ended."""
    return [each.pipeline_id for each in client.requests() if each.state != "ended"]


def device_process(home: Path, name: str) -> psutil.Process:
    folder = str(home / "sim" / name)
    [found] = [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] and folder in each.info["cmdline"]]
    return found


def test_a_device_dies_and_what_it_had_not_answered_is_answered_by_the_other(pair: Glmfleet) -> None:
    undisturbed = ask(pair.home)
    with connect(Home(pair.home)) as client:
        [view] = client.deployments()
        assert [pipeline.state for pipeline in view.pipelines] == ["ready", "ready"]
        dying = device_process(pair.home, view.pipelines[0].stages[0].device_name)
        dying.send_signal(signal.SIGSTOP)  # it takes what it is sent, and gives nothing
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(ask, pair.home) for _ in range(6)]
            wait_for(lambda: len(client.requests()) == 1 + 6 and set(open_on(client)) == {view.pipelines[0].pipeline_id}, 20)
            waiting = len(open_on(client))
            dying.kill()
            results = [one.result(30) for one in asked]
        assert {result.token_ids for result in results} == {undisturbed.token_ids}
        assert sorted(each.attempts for each in client.requests()) == [1] * (7 - waiting) + [2] * waiting
        [view] = client.deployments()
        assert view.state == "degraded"
        assert "1 of 2 pipelines answer" in view.detail
    assert ask(pair.home).token_ids == undisturbed.token_ids
    up = pair("sim", "up", "--devices", 2, "--profile", "rk3588")
    assert up.returncode == 0, up.stderr
    wait_for(lambda: pair.deployed() == ["ready"], 30)
