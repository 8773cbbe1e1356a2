from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from protos.errors import InvalidInput, NotFound, TimedOut, Unavailable
from protos.ids import DeviceId
from protos.net.transport import dial
from protos.v1.device_pb2 import DescribeRequest
from sim_devices import local_fleet as module
from sim_devices import processes
from sim_devices.local_fleet import DeviceSpec, LocalFleet
from tests.support.members import TestFleet
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
RK = DeviceSpec("rk3588")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LocalFleet]:
    fleet = LocalFleet(tmp_path, no_identity)
    yield fleet
    fleet.down()
    assert processes_of(tmp_path) == []


def no_identity(folder: Path, name: str) -> None:
    raise AssertionError("plaintext devices need no identity")


def processes_of(home: Path) -> list[int]:
    """Living processes that were given a folder of this home, found without the fleet's own records."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(argument.startswith(str(home)) for argument in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_devices_start_are_seen_and_stop(fleet: LocalFleet, tmp_path: Path) -> None:
    started = fleet.up([RK, DeviceSpec("raspberry-pi-5", pace="realtime", memory_bytes=10**9)], insecure=True)
    assert [(device.name, device.profile, device.pace, device.running) for device in started] == [
        ("dev-1", "rk3588", "fast", True),
        ("dev-2", "raspberry-pi-5", "realtime", True),
    ]
    assert len({device.device_id for device in started}) == len({device.address for device in started}) == 2
    assert sorted(processes_of(tmp_path)) == sorted(device.pid for device in started)
    # Another program, such as the command's next run, sees and extends the same fleet.
    other = LocalFleet(tmp_path, no_identity)
    assert other.status() == started
    assert [device.name for device in fleet.up([RK, DeviceSpec("rk3588", prefix="rk3588")], insecure=True)] == ["dev-3", "rk3588-1"]
    assert other.down(["dev-1"]) == ["dev-1"]
    assert [device.name for device in fleet.status()] == ["dev-2", "dev-3", "rk3588-1"]
    (again,) = fleet.up([RK], insecure=True)
    assert (again.name, again.device_id) == ("dev-1", started[0].device_id)
    assert fleet.down() == ["dev-1", "dev-2", "dev-3", "rk3588-1"]
    assert fleet.down() == fleet.status() == processes_of(tmp_path) == []
    fleet.down(purge=True)
    assert [path.name for path in (tmp_path / "sim").iterdir()] == [".lock"]


async def test_what_a_device_is_timed_by_and_runs_is_what_its_spec_says(fleet: LocalFleet) -> None:
    """In processes of their own."""
    made = fleet.up([replace(RK, timing="compiled"), replace(RK, dialect="glm-isa")], insecure=True)
    found = []
    for device in made:
        peer = dial(device.address, DeviceId(device.device_id), None)
        described = await peer.device_stub.Describe(DescribeRequest(), metadata=peer.metadata)
        await peer.close()
        found.append((list(described.dialects), described.accelerator.timed_by_programs, described.accelerator.core.name))
    assert found == [
        (["com.microsoft.nbits"], True, "edge-npu (generic)"),
        (["glm-isa"], True, "edge-npu (generic)"),
    ]


async def test_a_device_that_dies_is_told_from_one_that_runs(fleet: LocalFleet) -> None:
    (device,) = fleet.up([RK], insecure=True)
    os.kill(device.pid, signal.SIGKILL)
    await wait_until(lambda: not fleet.status()[0].running)
    assert fleet.status()[0].detail
    (again,) = fleet.up([RK], insecure=True)
    assert (again.name, again.device_id) == (device.name, device.device_id)


async def test_another_board_is_another_device(fleet: LocalFleet) -> None:
    """Killed or stopped: what was known of the one must not be believed of the other."""
    (rock,) = fleet.up([RK], insecure=True)
    fleet.down()
    (larger,) = fleet.up([replace(RK, memory_bytes=1 << 30)], insecure=True)
    os.kill(larger.pid, signal.SIGKILL)
    await wait_until(lambda: not fleet.status()[0].running)
    (pi,) = fleet.up([DeviceSpec("raspberry-pi-5")], insecure=True)
    assert [device.name for device in (rock, larger, pi)] == ["dev-1"] * 3
    assert len({device.device_id for device in (rock, larger, pi)}) == 3
    fleet.down()
    (again,) = fleet.up([DeviceSpec("raspberry-pi-5")], insecure=True)
    assert again.device_id == pi.device_id


@pytest.mark.long
def test_a_profile_of_ones_own_is_what_its_file_says(fleet: LocalFleet, tmp_path: Path) -> None:
    """Another board under the same path has another identity; the same board at another path has the same."""
    profile = tmp_path / "mine.toml"
    profile.write_text((ROOT / "sim_devices" / "profiles" / "raspberry-pi-5.toml").read_text())
    (before,) = fleet.up([DeviceSpec(str(profile), name="mine")], insecure=True)
    fleet.down()
    moved = profile.rename(tmp_path / "moved.toml")
    (same,) = fleet.up([DeviceSpec(str(moved), name="mine")], insecure=True)
    fleet.down()
    moved.write_text((ROOT / "sim_devices" / "profiles" / "rk3588.toml").read_text())
    (other,) = fleet.up([DeviceSpec(str(moved), name="mine")], insecure=True)
    assert before.device_id == same.device_id != other.device_id


@pytest.mark.long
def test_another_board_is_given_a_certificate_of_its_own(fleet: LocalFleet, tmp_path: Path) -> None:
    """Where the note of the board is damaged, too: then nobody knows whose the keys are."""
    authority = TestFleet.open(tmp_path / "members").authority
    secure = LocalFleet(tmp_path, lambda folder, name: authority.issue_folder(folder, "device", name))
    ids = []
    for memory in (None, None, 1 << 30, 1 << 30):
        (one,) = secure.up([replace(RK, memory_bytes=memory)])
        ids.append(one.device_id)
        if len(ids) == 3:
            (secure.folder(one.name) / "board.json").write_text("{")
        secure.down()
    assert [len(set(ids[:n])) for n in range(1, 5)] == [1, 1, 2, 3]


def test_one_that_cannot_start_stops_those_that_could(fleet: LocalFleet, tmp_path: Path) -> None:
    (before,) = fleet.up([RK], insecure=True)
    with pytest.raises(NotFound, match="dev-3: no profile 'nope'") as caught:
        fleet.up([RK, DeviceSpec("nope")], insecure=True)
    assert "rk3588" in caught.value.advice
    assert fleet.status() == [before]
    assert processes_of(tmp_path) == [before.pid]


def test_no_identity_is_the_childs_error_with_its_name(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []
    fleet = LocalFleet(tmp_path, lambda folder, name: asked.append((folder.name, name)))
    with pytest.raises(Exception, match=r"^dev-1: ") as caught:
        fleet.up([RK])
    assert asked == [("dev-1", "dev-1")]
    assert type(caught.value).__module__ == "protos.errors"
    assert fleet.status() == processes_of(tmp_path) == []


def test_a_death_without_a_word_shows_the_last_line_of_the_log(fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_device(monkeypatch, "import sys; sys.exit('no such thing')")
    with pytest.raises(Unavailable, match="dev-1 did not start: no such thing"):
        fleet.up([RK], insecure=True)


def test_one_that_says_nothing_is_killed_after_a_while(fleet: LocalFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.3)
    monkeypatch.setattr(module, "STOP_SECONDS", 0.3)
    replace_device(monkeypatch, "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    with pytest.raises(TimedOut, match="dev-1 did not start within"):
        fleet.up([RK], insecure=True)
    assert processes_of(tmp_path) == []


def test_ctrl_c_while_starting_leaves_nothing(fleet: LocalFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "first_line", interrupted)
    # Right after its start a process may have no command line yet to be known by: on a busy machine it was left running, and waited for.
    monkeypatch.setattr(processes, "living", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        fleet.up([RK, RK], insecure=True)
    monkeypatch.undo()
    assert fleet.status() == processes_of(tmp_path) == []


def test_a_recycled_pid_is_not_killed(fleet: LocalFleet, tmp_path: Path) -> None:
    """A record whose pid now belongs to another program: by its start, or by what it runs."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path / "elsewhere")]) as stranger:
        try:
            created = psutil.Process(stranger.pid).create_time()
            for number, started in enumerate((created, created - 1000), 1):
                folder = tmp_path / "sim" / f"dev-{number}"
                folder.mkdir(parents=True)
                record = {
                    "name": folder.name,
                    "profile": "p",
                    "pace": "fast",
                    "memory_bytes": None,
                    "pid": stranger.pid,
                    "started": started,
                }
                (folder / "device.json").write_text(json.dumps(record))
            assert [device.running for device in fleet.status()] == [False, False]
            assert fleet.down() == []
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_names_are_names(fleet: LocalFleet) -> None:
    with pytest.raises(InvalidInput):
        fleet.up([DeviceSpec("rk3588", prefix="../x")], insecure=True)
    for name in ("dev-9", "../sim", ""):
        with pytest.raises(NotFound):
            fleet.down([name])


def replace_device(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """The child runs this instead; it still has its folder among its arguments."""
    start = subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        return start([sys.executable, "-c", program, *command[4:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", popen)
