"""Services of systemd: what is written, what is refused, and what systemd itself says of the units."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.cli import service
from fleet.cli.units import Unit, quoted
from protos.errors import InvalidInput
from tests.support.command import Command

MOST_EXPOSURE = 16  # tenths; 1.6 of 10 is what systemd says of both
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where systemd runs, its folders are below this one, and what it and useradd are asked goes to `asked`."""
    (tmp_path / "bin").mkdir()
    for name, program in {
        "systemctl": 'echo "systemctl $*" >> "$ASKED"\n[ "$1" != --version ] || echo "systemd 252 (252.1)"\n'
        '[ "$1" != "$FAILS" ] || { echo no >&2; exit 1; }',
        "useradd": 'echo "useradd $*" >> "$ASKED"',
        "id": "exit 1",
    }.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{program}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("FAILS", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(service, "SYSTEM_UNITS", tmp_path / "system")
    monkeypatch.setattr(service, "SECRETS", tmp_path / "secrets")
    monkeypatch.setattr(service, "RUNNING", tmp_path)
    monkeypatch.setattr(service, "HIDDEN", ())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def asked(machine: Path) -> list[str]:
    return [line for line in (machine / "asked").read_text().splitlines() if "--version" not in line]


def test_installed_and_removed(glmfleet: Command, machine: Path) -> None:
    token = "glmfleet-" + "a" * 60
    code, _, err = glmfleet("service", "install", "device", "--token", token)
    assert code == 1  # what is no token is told now
    assert not (machine / "system").exists()
    code, _, err = glmfleet("service", "install", "device", "--", "--name", "gate 7", "--memory", "2GiB")
    assert code == 0, err
    path = machine / "system" / "glmfleet-device.service"
    text = path.read_text()
    assert f'ExecStart="{sys.executable}" -P -m fleet.cli device run --name "gate 7" --memory 2GiB\n' in text
    assert "RestartSteps" not in text  # systemd 252 does not know it
    assert asked(machine) == [
        "systemctl daemon-reload",
        "systemctl enable glmfleet-device.service",
        "systemctl restart glmfleet-device.service",
    ]
    (machine / "asked").unlink()
    code, _, err = glmfleet("service", "uninstall", "device")
    assert code == 0
    assert "its state stays in /var/lib/glmfleet-device" in err
    assert not path.exists()
    assert asked(machine) == ["systemctl disable --now glmfleet-device.service", "systemctl daemon-reload"]
    code, _, err = glmfleet("service", "uninstall", "device")
    assert (code, "nothing to remove" in err) == (0, True)


def test_a_token_lies_where_only_its_owner_reads_it(glmfleet: Command, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "parse_token", lambda text: None)
    assert glmfleet("service", "install", "device", "--token", "secret-words")[0] == 0
    [secret] = (machine / "secrets").iterdir()
    assert secret.read_text() == "GLMFLEET_TOKEN=secret-words\n"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    unit = (machine / "system" / "glmfleet-device.service").read_text()
    assert f"EnvironmentFile=-{secret}\n" in unit
    assert "secret-words" not in unit
    glmfleet("service", "uninstall", "device")
    assert not secret.exists()


def test_the_coordinator_gets_a_user_that_stays(glmfleet: Command, machine: Path) -> None:
    """An operator imports models as this user."""
    code, _, err = glmfleet("service", "install", "serve", "--", "--port", 7411)
    assert code == 0
    assert "sudo -u glmfleet-serve glmfleet --home /var/lib/glmfleet-serve devices" in err
    assert asked(machine)[0].startswith("useradd --system --user-group --home-dir /var/lib/glmfleet-serve")
    assert "-m fleet.cli serve --port 7411\n" in (machine / "system" / "glmfleet-serve.service").read_text()


def test_a_users_own(glmfleet: Command, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, _, err = glmfleet("service", "install", "serve", "--user", "--home", machine / "home")
    assert code == 0, err
    text = (machine / "config" / "systemd" / "user" / "glmfleet-serve.service").read_text()
    assert f'Environment="GLMFLEET_HOME={machine / "home"}"' in text
    assert "WantedBy=default.target" in text
    assert "DynamicUser" not in text
    assert "useradd" not in (machine / "asked").read_text()
    assert "systemctl --user daemon-reload" in asked(machine)


def test_what_is_refused_changes_nothing(glmfleet: Command, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(words: list[str], code: int, said: str) -> None:
        found, _, err = glmfleet("service", "install", *words)
        assert (found, said in err) == (code, True), err
        assert not (machine / "system").exists()

    refused(["device", "--", "--nam", "x"], 2, "No such option: --nam")
    refused(["serve", "--", "--port", "x"], 2, "valid integer")
    refused(["serve", "--token", "x"], 1, "a token is for a board")
    refused(["device", "--home", "/tmp/x"], 1, "keeps its state in /var/lib/glmfleet-device")
    monkeypatch.setattr(service, "HIDDEN", (str(Path(sys.executable).parent),))
    refused(["device"], 1, "in a home folder, which services do not see")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused(["device"], 1, "is installed by root")
    monkeypatch.setattr(service, "RUNNING", machine / "none")
    refused(["device"], 1, "systemd does not run this machine")


def test_what_systemd_refuses_is_said(glmfleet: Command, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILS", "enable")
    code, _, err = glmfleet("service", "install", "device")
    assert (code, err.splitlines()[0]) == (1, "error: systemctl enable glmfleet-device.service: no")


@needs_systemd
@pytest.mark.parametrize("name", ["device", "serve"])
@pytest.mark.parametrize("options", [["--user"], []])
def test_systemd_takes_the_units_without_a_word(glmfleet: Command, tmp_path: Path, name: str, options: list[str]) -> None:
    code, out, _ = glmfleet("service", "install", name, *options, "--print")
    assert code == 0
    path = tmp_path / f"glmfleet-{name}.service"
    path.write_text(out)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(["systemd-analyze", "verify", *options, str(path)], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, [line for line in done.stderr.splitlines() if path.name in line]) == (0, [])


@needs_systemd
@pytest.mark.parametrize("name", ["device", "serve"])
def test_systemd_finds_the_units_hardly_exposed(glmfleet: Command, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"glmfleet-{name}.service"
    path.write_text(glmfleet("service", "install", name, "--print")[1])
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={MOST_EXPOSURE}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:]


@needs_systemd
def test_words_of_any_kind_reach_the_program_as_they_are(tmp_path: Path) -> None:
    """systemd itself takes the line apart."""
    path = tmp_path / "glmfleet-device.service"
    path.write_text(Unit("device", sys.executable, "/var/lib/x y", ("--name", "a b % $HOME \\ \" ' ; é"), systemd=252).text())
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if path.name in line]) == (0, [])
    assert quoted("") == '""'


def test_newer_systemds_wait_longer_each_time() -> None:
    assert "RestartMaxDelaySec=60" in Unit("device", "/usr/bin/python3", "/var/lib/x", systemd=254).text()
    with pytest.raises(InvalidInput):
        service._check_reach(Unit("device", "/home/pi/.local/bin/python", "/var/lib/x"))
