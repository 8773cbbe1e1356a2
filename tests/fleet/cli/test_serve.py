from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
from pathlib import Path

import httpx
import pytest

from fleet.home import Home
from fleet.trust.login import parse_code
from tests.support.command import Command
from tests.support.processes import Glmfleet


@pytest.fixture
def program(home: Home) -> Glmfleet:
    return Glmfleet(home.path)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(program: Glmfleet, home: Home, number: signal.Signals) -> None:
    with program.serving() as server:
        running = home.running_coordinator()
        assert running is not None
        assert running.pid == server.pid
        assert httpx.get(f"{running.url}/healthz", trust_env=False).json() == {"status": "ok"}
        assert httpx.get(f"{running.url}/api/v1/devices", trust_env=False).json() == []
        server.send_signal(number)
        _, err = server.communicate(timeout=20)
    assert server.returncode == 0
    assert err.splitlines()[-1] == "stopped"
    assert "Traceback" not in err
    assert home.running_coordinator() is None
    assert not home.coordinator_file.exists()


def test_a_second_one_on_the_same_home_is_told_where_the_first_is(program: Glmfleet, home: Home) -> None:
    with program.serving() as server:
        running = home.running_coordinator()
        assert running is not None
        done = program("serve", "--port", 0)
        assert done.returncode == 1
        assert done.stderr.splitlines()[0] == f"error: a coordinator of this home already runs at {running.url} (process {server.pid})"
        assert home.running_coordinator() == running


def test_a_port_in_use_is_one_clear_line(glmfleet: Command, home: Home) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert glmfleet("serve", "--port", port, "--home", home.path) == (
            1,
            "",
            f"error: port {port} is in use\n  choose another with --port, or --port 0 for any free one\n",
        )
    assert home.running_coordinator() is None


@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("::", marks=pytest.mark.long)])
def test_beyond_loopback_it_speaks_https_and_asks_for_a_key(program: Glmfleet, home: Home, host: str) -> None:
    with program.serving("--host", host, "--name", "desk.example") as server:
        running = home.running_coordinator()
        assert running is not None
        assert running.url.startswith("https://")
        assert running.reach[0] == f"desk.example:{running.url.rpartition(':')[2]}"
        trusted = ssl.create_default_context(cafile=str(home.authority / "certificate.pem"))
        with httpx.Client(base_url=running.url, verify=trusted, trust_env=False) as http:
            assert http.get("/healthz").json() == {"status": "ok"}
            assert http.get("/api/v1/devices").status_code == 401
            assert http.get("/api/v1/devices", headers={"Authorization": f"Bearer {(home.path / 'api-key').read_text()}"}).json() == []
            with pytest.raises(httpx.TransportError):
                http.get(running.url.replace("https", "http") + "/healthz")
        assert json.loads(program("devices", "--json").stdout) == []
        code = program("keys", "create", "ann", "--role", "user", "--login").stdout.strip()
        assert parse_code(code).addresses == running.reach
        assert "0 of" not in program("audit", "verify").stderr
        server.terminate()
        _, err = server.communicate(timeout=20)
    assert f"on another machine: glmfleet login {running.reach[0]}" in err
    assert len(err.partition("to be compared there: ")[2].splitlines()[0].split()) == 5


def test_without_tls_nobody_is_let_in_from_outside(glmfleet: Command, home: Home) -> None:
    code, _, err = glmfleet("serve", "--host", "0.0.0.0", "--insecure", "--home", home.path)
    assert (code, err.splitlines()[0]) == (1, "error: --insecure is for loopback only, not for 0.0.0.0")


@pytest.mark.long
def test_a_code_for_others_needs_an_address_for_others(program: Glmfleet, home: Home) -> None:
    with program.serving():
        done = program("keys", "create", "ann", "--login")
        assert done.stderr.splitlines() == [
            "error: this coordinator listens on loopback alone",
            "  start it with: glmfleet serve --host 0.0.0.0",
        ]
        assert json.loads(program("keys", "list", "--json").stdout) == []


def test_an_address_that_is_not_ours(glmfleet: Command, home: Home) -> None:
    code, _, err = glmfleet("serve", "--host", "192.0.2.77", "--home", home.path)
    assert code == 1
    assert err.startswith("error: cannot listen on 192.0.2.77")


def test_with_a_key_only_those_who_have_it_are_served(program: Glmfleet, home: Home) -> None:
    with program.serving("--require-key"):
        running = home.running_coordinator()
        assert running is not None
        assert httpx.get(f"{running.url}/v1/models", trust_env=False).status_code == 401
        assert json.loads(program("devices", "--json").stdout) == []
    assert stat.S_IMODE(os.stat(home.path / "api-key").st_mode) == 0o600


def test_the_store_may_be_a_database_elsewhere(program: Glmfleet, home: Home, tmp_path: Path) -> None:
    with program.serving("--store", f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"):
        running = home.running_coordinator()
        assert running is not None
        assert httpx.get(f"{running.url}/api/v1/deployments", trust_env=False).json() == []
        assert (tmp_path / "elsewhere.sqlite").exists()
        assert not home.state_file.exists()


def test_a_store_that_cannot_be_opened_is_two_lines(program: Glmfleet) -> None:
    done = program("serve", "--port", 0, "--store", "mysql://host/fleet")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: a store is a SQLite file or a PostgreSQL database, not mysql",
        "  for example postgresql://host/glmfleet, or sqlite:////folder/file",
    ]
