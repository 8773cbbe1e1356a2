"""A fleet from a file, each device a process behind its links, and what faults do to it."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Glmfleet, processes_naming, wait_for

FILE = """
seed = 3

[[devices]]
name = "lamp"
profile = "rk3588"
count = 2
labels = { role = "lamp" }

[[devices]]
name = "gateway"
profile = "raspberry-pi-5"
labels = { role = "gateway" }

[[links]]
between = ["*", "*"]
delay = "5ms"

[[links]]
between = ["lamp-*", "lamp-*"]
delay = "30ms"

[[faults]]
at = "1h"
do = "kill one:lamp-*"
"""
PROMPT = ["--prompt-ids", "72,101,108,108,111"]
# Its own answer would end by itself; one that is known is as long as it is.
LONG = [*PROMPT, "--max-tokens", 50, "--forced-ids", ",".join(["72"] * 45)]


def as_json(glmfleet: Glmfleet, *arguments: object) -> Any:
    done = glmfleet(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Glmfleet]:
    """Three devices of a file, a model on the two lamps; nothing is left over at the end, the links' process neither."""
    home = tmp_path_factory.mktemp("troubled") / "home"
    path = home.parent / "FLEET.toml"
    path.write_text(FILE)
    glmfleet = Glmfleet(home)
    imported = glmfleet("model", "import", checkpoint, "--name", "tiny")
    assert imported.returncode == 0, imported.stderr
    try:
        up = glmfleet("sim", "up", path)
        assert up.returncode == 0, up.stderr
        with glmfleet.serving():
            wait_for(lambda: glmfleet.states() == {"lamp-1": "online", "lamp-2": "online", "gateway": "online"}, 20)
            deployed = glmfleet("deploy", "tiny", "--devices", "role=lamp", "--stages", 2, "--context", 512)
            assert deployed.returncode == 0, deployed.stderr
            yield glmfleet
    finally:
        down = glmfleet("sim", "down")
    assert down.returncode == 0, down.stderr
    assert processes_naming(str(home)) == []
    assert not list(home.rglob("control"))


def answer(glmfleet: Glmfleet) -> list[int]:
    ids: list[int] = as_json(glmfleet, "generate", *PROMPT, "--max-tokens", 12)["token_ids"]
    return ids


def interrupted(glmfleet: Glmfleet, *fault: object) -> float:
    """A client whose answer the fault meets gets all of it once the fault is healed; the seconds from the fault to its being noticed.

    A token takes two links of 30 ms, so the answer takes 3 s.
    """
    whole = glmfleet("generate", *LONG)
    assert whole.returncode == 0, whole.stderr
    client = glmfleet.start("generate", *LONG)
    assert client.stdout is not None
    begun = client.stdout.read(1)
    assert begun, client.communicate()
    start = time.monotonic()
    done = glmfleet("sim", "fault", *fault)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: client.poll() is not None or as_json(glmfleet, "requests")[0]["state"] == "recovering", 60)
    assert client.poll() is None, client.communicate()
    seconds = time.monotonic() - start
    assert glmfleet("sim", "fault", "heal").returncode == 0
    rest = client.stdout.read()  # not `communicate`, which passes over what was read ahead
    _, stderr = client.communicate(timeout=60)
    assert client.returncode == 0, stderr
    assert begun + rest == whole.stdout
    return seconds


@pytest.fixture(scope="module")
def expected(troubled: Glmfleet) -> list[int]:
    return answer(troubled)


@pytest.fixture(autouse=True)
def healed(troubled: Glmfleet, expected: list[int]) -> Iterator[None]:
    """Whatever a test leaves broken is broken for that test alone."""
    yield
    assert troubled("sim", "fault", "heal").returncode == 0
    assert as_json(troubled, "sim", "faults")["active"] == []


def well(glmfleet: Glmfleet, expected: list[int]) -> None:
    assert glmfleet("sim", "fault", "heal").returncode == 0
    wait_for(lambda: glmfleet.deployed() == ["ready"], 30)
    assert answer(glmfleet) == expected


def test_devices_have_their_labels_and_announce_their_doors(troubled: Glmfleet, expected: list[int]) -> None:
    lamps = as_json(troubled, "devices", "--label", "role=lamp")
    assert {device["name"] for device in lamps} == {"lamp-1", "lamp-2"}
    assert {device["device_name"] for device in as_json(troubled, "deployments")[0]["stages"]} == {"lamp-1", "lamp-2"}
    assert {device["address"] for device in lamps} < {device["address"] for device in as_json(troubled, "sim", "status")}
    (coming,) = as_json(troubled, "sim", "faults")["to_come"]
    assert coming["what"].startswith("kill lamp-")
    for socket in troubled.home.rglob("control"):
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600


def test_a_device_killed_in_mid_sentence_is_a_pause(troubled: Glmfleet, expected: list[int]) -> None:
    interrupted(troubled, "kill", "lamp-2")
    well(troubled, expected)


@pytest.mark.long
def test_a_cut_between_two_devices_is_noticed_and_heals(troubled: Glmfleet, expected: list[int]) -> None:
    """Only their link: both stay online for the coordinator."""
    assert interrupted(troubled, "cut", "lamp-1", "lamp-2") < 6
    assert troubled.states() == {"lamp-1": "online", "lamp-2": "online", "gateway": "online"}
    well(troubled, expected)


@pytest.mark.long
def test_a_device_that_hangs_is_noticed_and_goes_on(troubled: Glmfleet, expected: list[int]) -> None:
    assert interrupted(troubled, "hang", "lamp-1") < 6
    well(troubled, expected)


@pytest.mark.long
def test_a_flipped_bit_is_refused_by_its_part_and_sent_anew(troubled: Glmfleet, expected: list[int]) -> None:
    assert troubled("undeploy", "tiny").returncode == 0
    assert troubled("sim", "fault", "flip-bit", "lamp-1").returncode == 0
    flipped = as_json(troubled, "sim", "faults")["log"][-1]
    refused = troubled("deploy", "tiny", "--devices", "role=lamp", "--stages", 2, "--context", 512)
    assert refused.returncode == 1
    again = troubled("deploy", "tiny", "--devices", "role=lamp", "--stages", 2, "--context", 512)
    blob = flipped["detail"].split()[2].rstrip(",")
    assert f"lamp-1: blob {blob} changed on the device's disk; it was dropped (" in refused.stderr
    assert any(part in refused.stderr for part in ("(layers.", "(positions", "(embedding", "(head")), refused.stderr
    assert again.returncode == 0, again.stderr
    assert answer(troubled) == expected


@pytest.mark.long
def test_a_full_disk_is_told_where_it_is(troubled: Glmfleet, expected: list[int]) -> None:
    assert troubled("sim", "fault", "full-disk", "gateway").returncode == 0
    refused = troubled("deploy", "tiny", "--devices", "gateway", "--name", "other", "--context", 512)
    assert refused.returncode == 1
    told = " ".join(refused.stderr.split())
    assert "fits into the memory of these devices, and not on their disks: gateway: no room on its disk: " in told
    assert "the disk is full" in told
    planned = " ".join(troubled("plan", "tiny", "--context", 512).stdout.split())
    assert "- gateway: no room on its disk: " in planned
    well(troubled, expected)


def test_what_cannot_be_done_is_said(troubled: Glmfleet) -> None:
    for words, said in ((["explode", "lamp-1"], "not a fault"), (["kill", "pole-1"], "no device 'pole-1'"), (["slow", "lamp-1"], "slow:")):
        done = troubled("sim", "fault", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
    again = troubled("sim", "up", troubled.home.parent / "FLEET.toml")
    assert again.returncode == 1
    assert "lamp-1 runs already" in again.stderr
