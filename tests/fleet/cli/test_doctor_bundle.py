"""The report for a maintainer: it opens, has what helps, and none of what is secret, wherever that lies or shows up."""

from __future__ import annotations

import base64
import gzip
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.cli.doctor_bundle import LOG_LINES, REMOVED, Secrets, last_lines
from fleet.home import Home
from fleet.trust.authority import Authority
from protos.enrolment import new_token
from sim_devices.processes import LOG
from tests.support.command import Command
from tests.support.fake_coordinator import DEVICE, FakeCoordinator

API_KEY, PROMPT, ANSWER = "k3y-of-the-api-0123456789abcdef", "What ails my patient Miller?", "Miller has the measles"
LOGIN, KEY = "glmfleet-login-" + "Ab9_-" * 20, "glmfleet-key-" + "abc7" * 8  # pragma: allowlist secret
HUB, PASSWORD = "hf_" + "Zx9" * 12, "corr3ct-horse"  # pragma: allowlist secret


def planted(home: Home, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Secrets of every kind where they lie, and in a log where they should not be; all of them, in pieces as they may show up."""
    Authority.open(home.authority).issue_folder(home.sim / "dev-1", "device", "dev-1")
    token = new_token(b"authority").text
    (home.path / "api-key").write_text(API_KEY)
    home.coordinator.mkdir()
    home.state_file.write_text(PROMPT + ANSWER)
    keys = [path.read_text() for path in (home.authority / "key.pem", home.sim / "dev-1" / "key.pem")]
    lines = [line for key in keys for line in key.splitlines() if not line.startswith("---")]
    monkeypatch.setenv("GLMFLEET_TOKEN", token)
    monkeypatch.setenv("HF_TOKEN", HUB)
    monkeypatch.setenv("PGPASSWORD", PASSWORD * 2)
    said = [f"ready {number}" for number in range(1000)]
    said += [*keys, json.dumps({"key": keys[0]}), f"Authorization: Bearer {API_KEY}", f"token {token} was used", f"from {HUB}"]
    said += [
        f"store postgresql://fleet:{PASSWORD}@db/fleet",
        f"GET /model?token={PASSWORD}&x=1",
        lines[0],
        f"{LOGIN} {KEY}",
        "the last word",
    ]
    (home.sim / "dev-1" / LOG).write_text("\n".join(said))
    record = {"name": "dev-1", "profile": "rk3588", "pace": "fast", "memory_bytes": None, "pid": 0, "started": 0.0}
    (home.sim / "dev-1" / "device.json").write_text(json.dumps(record))
    return [API_KEY, LOGIN, KEY, PROMPT, ANSWER, token, HUB, PASSWORD, *lines, "PRIVATE KEY"]


def opened(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        assert all(member.isfile() and not member.name.startswith(("/", "..")) for member in archive.getmembers())
        return {member.name: archive.extractfile(member).read().decode() for member in archive.getmembers()}


def test_nothing_secret_is_in_it_wherever_it_lay(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = planted(served, monkeypatch)
    coordinator.found = [replace(DEVICE, name="gate-7", state="offline", detail=f"refused: Bearer {API_KEY}")]
    path = tmp_path / "report.tar.gz"
    glmfleet("doctor", "--bundle", path, "--home", served.path)
    parts = opened(path)
    names = {name.removeprefix("glmfleet-doctor/") for name in parts}
    expected = "versions doctor settings interfaces simulated-devices devices discovery deployments diagnosis enrolments"
    assert names == {f"{name}.json" for name in expected.split()} | {"logs/dev-1.txt"}
    assert all(json.loads(text) is not None for name, text in parts.items() if name.endswith(".json"))
    everything = "".join(parts.values()) + gzip.decompress(path.read_bytes()).decode(errors="replace")
    for one in secret:
        assert one not in everything
        assert base64.b64encode(one.encode()).decode().rstrip("=")[:-1] not in everything
    assert path.stat().st_mode & 0o077 == 0
    log = parts["glmfleet-doctor/logs/dev-1.txt"]
    assert log.endswith("the last word\n")
    assert REMOVED in log
    assert f"postgresql://{REMOVED}@db/fleet" in log
    settings = json.loads(parts["glmfleet-doctor/settings.json"])
    assert settings["environment"]["GLMFLEET_TOKEN"] == "(set)"
    assert json.loads(parts["glmfleet-doctor/devices.json"])[0]["name"] == "gate-7"
    assert json.loads(parts["glmfleet-doctor/versions.json"])["glmfleet"]


def test_a_report_without_a_coordinator_and_one_that_cannot_be_written(glmfleet: Command, home: Home, tmp_path: Path) -> None:
    path = tmp_path / "report.tar.gz"
    code, _, err = glmfleet("doctor", "--bundle", path, "--home", home.path)
    assert code == 1
    assert "look through it before you send it" in " ".join(err.split())
    assert {"glmfleet-doctor/doctor.json", "glmfleet-doctor/versions.json"} <= opened(path).keys()
    code, _, err = glmfleet("doctor", "--bundle", tmp_path / "none" / "report.tar.gz", "--home", home.path)
    assert (code, err.splitlines()[-2]) == (1, f"error: cannot write {tmp_path / 'none' / 'report.tar.gz'}: No such file or directory")


def test_of_a_long_log_the_last_lines_are_taken(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert last_lines(log) == ""
    log.write_text("\n".join(str(number) for number in range(100_000)))
    assert last_lines(log).splitlines() == [str(number) for number in range(100_000 - LOG_LINES, 100_000)]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIB\n-----END EC PRIVATE KEY-----\nend", f"{REMOVED}\nend"),  # pragma: allowlist secret
        ("-----BEGIN PRIVATE KEY-----\nMHcCAQEEIB, cut", REMOVED),  # pragma: allowlist secret
        ("authorization: bearer abc.def", f"authorization: bearer {REMOVED}"),
        ("http://proxy:8080/x and dev@host", "http://proxy:8080/x and dev@host"),
        ("glmfleet-doctor/devices.json", "glmfleet-doctor/devices.json"),
    ],
)
def test_what_looks_secret_is_taken_out_and_nothing_else(text: str, left: str) -> None:
    assert Secrets(()).removed(text) == left
