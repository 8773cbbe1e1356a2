"""`glmfleet login`, from another home over real HTTPS, and what then goes wrong."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.access import NewKey
from fleet.api.app import create_app
from fleet.api.connections import Door
from fleet.enrolling.views import InvitationView
from fleet.home import Home
from fleet.trust.api_key import authenticator, ensure_key
from fleet.trust.authority import Authority
from fleet.trust.keys import ApiKeys
from fleet.trust.login import LoginCode, parse_code, read_login
from fleet.trust.server_certificate import Names, ServerCertificate
from protos.enrolment import authority_hash, fleet_words
from protos.errors import InvalidInput
from tests.support.command import Command
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.http_server import serving


class Desk:
    """A coordinator on another machine: a fake one behind real HTTPS and real keys, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = Home.open(folder)
        self.authority = Authority.open(self.home.authority)
        self.hash = authority_hash(self.authority.public_der)
        self.words = fleet_words(self.hash)
        self.keys = ApiKeys(folder)
        self.coordinator = _Inviting(self.authority)
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> Desk:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def key(self, name: str = "ann", role: str = "operator", seconds: float | None = None) -> str:
        return self.keys.make(NewKey(name, role, seconds)).key  # type: ignore[arg-type]

    async def _serve(self) -> None:
        # Under no name or address that a client uses: they know it by its authority.
        certificate = ServerCertificate(self.authority, self.home.path, Names(("desk.example",), ("192.0.2.1",)))
        app = create_app(self.coordinator, authenticate=authenticator(ensure_key(self.home), self.keys))
        async with serving(app, Door(tls=certificate.context)) as url:
            self.address = url.removeprefix("https://")
            self._started.set()
            await self._stop.wait()


class _Inviting(FakeCoordinator):
    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self._authority = authority

    def invite(self) -> InvitationView:
        return InvitationView(self._authority.fleet_id, self._authority.certificate_pem.decode(), "00" * 32)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Desk(tmp_path / "desk") as made:
        yield made


def test_every_command_then_asks_the_other_machine(glmfleet: Command, home: Home, desk: Desk) -> None:
    key = desk.key()
    code, out, err = glmfleet("login", desk.address, "--key", key, "--fleet", desk.words, "--home", home.path)
    assert (code, out) == (0, "")
    assert err.startswith(f"logged in at {desk.address} as ann (operator)")
    assert home.login.stat().st_mode & 0o777 == 0o600
    assert "dev-1" in glmfleet("devices", "--home", home.path)[1]
    assert "Paris" in glmfleet("generate", "hi", "--home", home.path)[1]
    code, out, err = glmfleet("model", "list", "--home", home.path)
    assert (code, out.splitlines()[1].split()[0], err) == (0, "tiny", f"the models at {desk.address}\n")
    assert json.loads(glmfleet("model", "show", "tiny", "--json", "--home", home.path)[1])["name"] == "tiny"
    assert glmfleet("model", "show", "tiny", "--verify", "--home", home.path)[2].startswith(f"error: the models are at {desk.address}")
    assert glmfleet("undeploy", "tiny", "--home", home.path)[0] == 0
    assert desk.coordinator.log.lines[-1]["who"] == "ann"
    assert glmfleet("keys", "list", "--home", home.path)[2].startswith("error: ann (operator) may not see and change keys")
    assert glmfleet("logout", "--home", home.path) == (0, "", "logged out\n")
    assert "no coordinator is running" in glmfleet("devices", "--home", home.path)[2]
    assert glmfleet("logout", "--home", home.path) == (0, "", "this home was not logged in\n")


def test_a_code_has_all_of_it(glmfleet: Command, home: Home, desk: Desk) -> None:
    with pytest.raises(InvalidInput):
        parse_code("glmfleet-login-AAAA")
    made = LoginCode(("127.0.0.1:1", desk.address), desk.hash, desk.key())  # nobody answers at the first
    assert parse_code(made.text) == made
    assert glmfleet("login", made.text, "--home", home.path)[0] == 0
    login = read_login(home)
    assert login is not None
    assert (login.address, login.name, login.role) == (desk.address, "ann", "operator")


def test_where_another_fleet_has_an_address_of_the_code_the_next_is_tried(
    glmfleet: Command, home: Home, desk: Desk, tmp_path: Path
) -> None:
    with Desk(tmp_path / "other") as other:
        code, _, err = glmfleet("login", LoginCode((other.address, desk.address), desk.hash, desk.key()).text, "--home", home.path)
    assert (code, f"logged in at {desk.address}" in err) == (0, True)


def test_keys_create_makes_such_a_code(glmfleet: Command, home: Home, desk: Desk) -> None:
    glmfleet("login", desk.address, "--key", desk.key(role="admin"), "--fleet", desk.hash.hex(), "--home", home.path)
    desk.coordinator.new_key = _made_by(desk)  # type: ignore[method-assign]
    code, out, err = glmfleet("keys", "create", "bob", "--login", "--home", home.path)
    assert code == 0
    assert parse_code(out.strip()).addresses == (desk.address,)
    assert "glmfleet login CODE" in err


def _made_by(desk: Desk):
    async def new_key(wish: NewKey):
        return desk.keys.make(wish)

    return new_key


@pytest.mark.parametrize("given", ["wrong words here in there", "00" * 32])
def test_another_fleet_than_was_meant(glmfleet: Command, home: Home, desk: Desk, given: str) -> None:
    code, _, err = glmfleet("login", desk.address, "--key", desk.key(), "--fleet", given, "--home", home.path)
    assert code == 1
    assert err.splitlines()[0] == f"error: the coordinator at {desk.address} is of another fleet than {given!r}: {desk.words}"
    assert not home.login.exists()


def test_another_fleet_than_the_code_s(glmfleet: Command, home: Home, desk: Desk) -> None:
    code, _, err = glmfleet("login", LoginCode((desk.address,), bytes(32), desk.key()).text, "--home", home.path)
    assert (code, "is not of this code's fleet" in err) == (1, True)


@pytest.mark.parametrize("first", ["desk", "other"])
def test_who_shows_two_authorities_is_trusted_with_neither(glmfleet: Command, home: Home, desk: Desk, tmp_path: Path, first: str) -> None:
    other = Authority.open(tmp_path / "other").certificate_pem
    ours = desk.authority.certificate_pem
    shown = InvitationView(desk.authority.fleet_id, (ours + other if first == "desk" else other + ours).decode(), "00" * 32)
    desk.coordinator.invite = lambda: shown  # type: ignore[method-assign]
    code, _, err = glmfleet("login", desk.address, "--key", desk.key(), "--fleet", desk.words, "--home", home.path)
    assert (code, "more than one" in err) == (1, True)
    assert not home.login.exists()


def test_nobody_compares_the_words(glmfleet: Command, home: Home, desk: Desk) -> None:
    code, _, err = glmfleet("login", desk.address, "--key", desk.key(), "--home", home.path)
    assert code == 1
    assert err.splitlines()[0] == f"the coordinator at {desk.address} has the fingerprint: {desk.words}"
    assert "give the one that the coordinator shows with --fleet" in err
    assert not home.login.exists()


@pytest.mark.parametrize("answer", ["y", "n"])
def test_somebody_compares_the_words_and_types_the_key(
    glmfleet: Command, home: Home, desk: Desk, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    key = desk.key()
    monkeypatch.setattr("sys.stdin", _Terminal(f"{answer}\n"))
    monkeypatch.setattr("typer.prompt", lambda text, **how: key if how["hide_input"] else "shown")
    code, out, err = glmfleet("login", desk.address, "--home", home.path)
    assert desk.words in err
    assert key not in out + err
    assert (code, home.login.exists()) == ((0, True) if answer == "y" else (1, False))
    assert answer == "y" or "another fleet answers there" in err


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("how", "told"), [("expired", "the key old expired on"), ("revoked", "the key old was revoked"), ("none", "")])
def test_a_key_that_is_no_good(glmfleet: Command, home: Home, desk: Desk, how: str, told: str) -> None:
    key = desk.key("old", seconds=1e-9 if how == "expired" else None) if how != "none" else "glmfleet-key-none"
    if how == "revoked":
        desk.keys.revoke("old")
    code, _, err = glmfleet("login", desk.address, "--key", key, "--fleet", desk.words, "--home", home.path)
    assert code == 1
    assert err.splitlines()[0].startswith(f"error: {told or 'this key is not one of this fleet'}")
    assert "glmfleet keys create" in err.splitlines()[1]
    assert not home.login.exists()


def test_a_key_that_ends_later_is_told_by_every_command(glmfleet: Command, home: Home, desk: Desk) -> None:
    glmfleet("login", desk.address, "--key", desk.key(), "--fleet", desk.words, "--home", home.path)
    desk.keys.revoke("ann")
    assert glmfleet("devices", "--home", home.path)[2].splitlines()[0] == "error: the key ann was revoked"


def test_nobody_answers(glmfleet: Command, home: Home) -> None:
    code, _, err = glmfleet("login", "127.0.0.1:1", "--key", "x", "--home", home.path)
    assert code == 1
    assert err.splitlines() == ["error: 127.0.0.1:1: connection refused", "  does `glmfleet serve --host …` run there?"]


def test_another_fleet_took_the_address(glmfleet: Command, home: Home, desk: Desk, tmp_path: Path) -> None:
    glmfleet("login", desk.address, "--key", desk.key(), "--fleet", desk.words, "--home", home.path)
    plain = json.loads(home.login.read_text())
    with Desk(tmp_path / "other") as other:
        home.login.write_text(json.dumps({**plain, "address": other.address}))
        code, _, err = glmfleet("devices", "--home", home.path)
    assert code == 1
    assert f"error: https://{other.address} is no coordinator of the fleet that this home knows" in err
    assert other.coordinator.callers == []
    home.login.write_text("{")
    assert "cannot be read" in glmfleet("devices", "--home", home.path)[2]


def test_a_home_that_is_logged_in_serves_nobody(glmfleet: Command, home: Home, served: Home, desk: Desk) -> None:
    """And one that serves does not log in."""
    code, _, err = glmfleet("login", desk.address, "--key", "x", "--fleet", desk.words, "--home", served.path)
    assert (code, "a coordinator of this home runs" in err) == (1, True)


def test_serve_refuses_a_home_that_is_logged_in(glmfleet: Command, home: Home, desk: Desk) -> None:
    glmfleet("login", desk.address, "--key", desk.key(), "--fleet", desk.words, "--home", home.path)
    code, _, err = glmfleet("serve", "--port", 0, "--home", home.path)
    assert (code, err.splitlines()[0]) == (1, f"error: this home is logged in at {desk.address}")
