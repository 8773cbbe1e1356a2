"""Boards that call to join: the board's side and the coordinator's, over real HTTPS on loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from device.agent.identity import load_identity
from device.agent.joining import join
from fleet.api import joining as routes
from fleet.api.app import create_app
from fleet.api.connections import Door
from fleet.enrolling import enrolment
from fleet.enrolling.enrolment import Enrolment
from fleet.enrolling.joining import NONCE_SECONDS, Joining
from fleet.enrolling.views import InvitationView, JoinRequest, MembershipView
from fleet.trust.api_key import authenticator
from fleet.trust.authority import Authority, utc_now
from fleet.trust.server_certificate import Names, ServerCertificate
from fleet.trust.tokens import Tokens
from protos.enrolment import Token
from protos.errors import Busy, Denied, FleetError, InvalidInput, Unavailable
from protos.ids import DeviceId, api_host_name
from tests.support.boards import board
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.http_server import serving
from tests.support.waiting import wait_until

LIFE = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fleet(FakeCoordinator):
    """A coordinator of which the part is real that takes boards in."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.clock, self.monotonic = Clock(), Clock()
        self.authority = Authority.open(folder / "authority")
        self.tokens_kept = Tokens(folder / "authority", self.clock)
        self.joined: list[tuple[DeviceId, str, str]] = []
        self.joining = Joining(self.authority, self.tokens_kept, lambda *who: self.joined.append(who), self.monotonic)
        self.certificate = ServerCertificate(self.authority, folder, Names(("localhost",), ("127.0.0.1",)))
        self.sent: list[JoinRequest] = []

    def token(self) -> Token:
        return self.tokens_kept.make(self.authority.public_der, LIFE)[0]

    def invite(self) -> InvitationView:
        return self.joining.invite()

    async def join(self, request: JoinRequest) -> MembershipView:
        self.sent.append(request)
        return await self.joining.join(request)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "desk")


@asynccontextmanager
async def served(fleet: Fleet, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """ "host:port"."""
    app = create_app(fleet, authenticate=authenticator("the home's own"))
    async with serving(app, Door(tls=tls or fleet.certificate.context)) as url:
        yield url.removeprefix("https://")


async def called(folder: Path, address: str, token: Token, port: int = 7420) -> None:
    await asyncio.to_thread(join, folder, address, token, "gate-7", port)


async def test_a_board_joins_and_is_dialled_where_it_calls_from(fleet: Fleet, tmp_path: Path) -> None:
    async with served(fleet) as address:
        await called(tmp_path / "board", address, fleet.token(), 7466)
    identity = load_identity(tmp_path / "board")
    assert identity.fleet_id == fleet.authority.fleet_id
    assert fleet.joined == [(identity.device_id, "127.0.0.1:7466", "join")]


@pytest.mark.parametrize("way", ["call", "mdns"])
@pytest.mark.parametrize(
    ("case", "reason", "told"),
    [
        ("reused", "token_used", "used by another board"),
        ("expired", "token_expired", "has expired"),
        ("guessed", "token_unknown", "not one of this fleet"),
        ("forged", "token_forged", "proof is false"),
    ],
)
async def test_a_token_that_is_no_good_is_refused_either_way_with_a_code_of_its_own(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, case: str, reason: str, told: str
) -> None:
    token = fleet.token()
    async with served(fleet) as address:
        if case == "reused":
            await called(tmp_path / "first", address, token)
        elif case == "expired":
            fleet.clock.now += LIFE
        elif case == "guessed":
            token = replace(token, secret=bytes(16))
        else:
            for module in ("device.agent.joining", "device.agent.enrolling"):
                monkeypatch.setattr(f"{module}.signed_text", lambda device, nonce: b"something else")
        before = list(fleet.joined)
        if way == "call":
            with pytest.raises(Denied, match=told):
                await called(tmp_path / "board", address, token)
            async with httpx.AsyncClient(verify=False, trust_env=False) as http:
                sent = {name: value for name, value in vars(fleet.sent[-1]).items() if name != "address"}
                answer = await http.post(f"https://{address}/api/v1/join", json={**sent, "port": 7420})
            assert (answer.status_code, answer.json()["error"]["reason"]) == (403, reason)
        else:
            monkeypatch.setattr(enrolment, "FIRST_WAIT_SECONDS", 0.02)
            async with (
                Enrolment(fleet.authority, fleet.tokens_kept, lambda *who: fleet.joined.append(who)) as ours,
                board(tmp_path / "board", token=token) as one,
            ):
                ours.heard(None, (one.address,), "seed")
                await wait_until(lambda: ours.views() != [])
                [view] = ours.views()
            assert (view.reason, told in view.detail) == (reason, True)
    assert fleet.joined == before
    assert not (tmp_path / "board" / "certificate.pem").exists()


async def test_nothing_is_sent_to_another_fleet(fleet: Fleet, tmp_path: Path) -> None:
    other = Fleet(tmp_path / "elsewhere")
    async with served(other) as address:
        with pytest.raises(Denied, match="is not of the token's fleet"):
            await called(tmp_path / "board", address, fleet.token())
    assert other.sent == []


async def test_nor_to_whoever_only_shows_the_fleet_s_authority(fleet: Fleet, tmp_path: Path) -> None:
    """A machine between the two has seen the authority's certificate, which is no secret, and has a TLS certificate of its own making; or
    one of this fleet: a device's, of a device that was taken over."""
    other = Fleet(tmp_path / "elsewhere")
    other.joining = fleet.joining  # it passes on what the true one says
    fleet.authority.issue_folder(tmp_path / "stolen", "device", "stolen")
    devices = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    devices.load_cert_chain(tmp_path / "stolen" / "certificate.pem", tmp_path / "stolen" / "key.pem")
    for tls in (other.certificate.context, devices):
        async with served(other, tls) as address:
            with pytest.raises(Denied, match="is no coordinator of this fleet"):
                await called(tmp_path / "board", address, fleet.token())
    assert other.sent == []


async def test_nor_to_whoever_shows_the_fleet_s_authority_before_another(fleet: Fleet, tmp_path: Path) -> None:
    other = Fleet(tmp_path / "elsewhere")
    both = (fleet.authority.certificate_pem + other.authority.certificate_pem).decode()
    true = fleet.joining.invite
    other.joining.invite = lambda: replace(true(), authority=both)  # type: ignore[method-assign]
    # Nobody keeps another authority from signing the name of ours.
    false = ServerCertificate(other.authority, tmp_path, Names((api_host_name(fleet.authority.fleet_id),), ()))
    async with served(other, false.context) as address:
        with pytest.raises(Denied, match=r"is no certificate|is no coordinator of this fleet"):
            await called(tmp_path / "board", address, fleet.token())
    assert other.sent == []


async def test_a_stranger_s_words_do_nothing_to_the_screen(fleet: Fleet, tmp_path: Path) -> None:
    def invite() -> InvitationView:
        raise Denied("\x1b[2J\nglmfleet: all is well\x07", advice="\x1b]0;x\x07")

    fleet.joining.invite = invite  # type: ignore[method-assign]
    async with served(fleet) as address:
        with pytest.raises(Denied) as caught:
            await called(tmp_path / "board", address, fleet.token())
    assert (caught.value.detail + caught.value.advice).isprintable()


async def test_a_board_whose_clock_is_wrong_is_told(fleet: Fleet, tmp_path: Path) -> None:
    """As many boards without a battery: to them the certificate is not yet valid. Here the coordinator's is of the past."""
    past = Authority.open(fleet_folder := tmp_path / "past", lambda: utc_now() - timedelta(days=30))
    certificate = ServerCertificate(past, fleet_folder, Names(("localhost",), ()))
    fleet.joining = Joining(past, Tokens(fleet_folder), lambda *who: None)
    async with served(fleet, certificate.context) as address:
        with pytest.raises(Denied, match="expired") as caught:
            await called(tmp_path / "board", address, Tokens(fleet_folder).make(past.public_der)[0])
    assert "clock" in caught.value.advice


async def test_plain_http_and_silence_are_told_apart(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(create_app(fleet, authenticate=None)) as url:
        with pytest.raises(Denied, match="does not speak HTTPS"):
            await called(tmp_path / "board", url.removeprefix("http://"), fleet.token())
    with pytest.raises(Unavailable, match="refused") as caught:
        await called(tmp_path / "board", url.removeprefix("http://"), fleet.token())
    assert "glmfleet serve --host" in caught.value.advice


def request(fleet: Fleet, **changes: str) -> JoinRequest:
    fields = {"signing_request": "none", "nonce": fleet.invite().nonce, "token_key": "00" * 32, "token_signature": "00" * 64}
    return JoinRequest("127.0.0.1:7420", **{**fields, **changes})


@pytest.mark.parametrize("nonce", ["", "00", "zz", "00" * 32])
async def test_a_nonce_that_is_not_ours_is_refused(fleet: Fleet, nonce: str) -> None:
    with pytest.raises(InvalidInput):
        await fleet.join(request(fleet, nonce=nonce))
    whole = bytearray.fromhex(fleet.invite().nonce)
    whole[0] ^= 1
    with pytest.raises(InvalidInput, match="not one of this coordinator"):
        await fleet.join(request(fleet, nonce=whole.hex()))


async def test_an_old_nonce_is_refused(fleet: Fleet) -> None:
    nonce = fleet.invite().nonce
    fleet.monotonic.now += NONCE_SECONDS - 1
    with pytest.raises(Denied, match="not a certificate signing request"):
        await fleet.join(request(fleet, nonce=nonce))
    fleet.monotonic.now += 2
    with pytest.raises(InvalidInput, match="older than"):
        await fleet.join(request(fleet, nonce=nonce))


async def test_what_is_no_request_does_not_use_the_token_up(fleet: Fleet, tmp_path: Path) -> None:
    token = fleet.token()
    async with served(fleet) as address:
        await called(tmp_path / "board", address, token)
        good = fleet.sent[-1]
        # Another board's request beside this one's proof.
        await called(tmp_path / "other", address, fleet.token())
        mixed = replace(good, signing_request=fleet.sent[-1].signing_request)
        with pytest.raises(FleetError):
            await fleet.join(mixed)
        fresh = fleet.token()
        with pytest.raises(Denied, match="not a certificate signing request"):
            await fleet.join(replace(good, signing_request="none"))
        await called(tmp_path / "third", address, fresh)
    assert {record.used_by for record in fleet.tokens_kept.all()} == {device for device, _, _ in fleet.joined}
    assert len(fleet.joined) == 3


async def test_strangers_ask_a_bounded_number_of_times(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "A_MINUTE_OF_ONE", 3)
    transport = httpx.ASGITransport(create_app(fleet, authenticate=authenticator("x")), client=("10.0.0.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="https://desk") as http:
        answers = [await http.get("/api/v1/join") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    neighbour = httpx.ASGITransport(create_app(fleet, authenticate=authenticator("x")), client=("10.0.0.8", 1))
    async with httpx.AsyncClient(transport=neighbour, base_url="https://desk") as http:
        assert (await http.get("/api/v1/join")).status_code == 200


def test_all_together_are_bounded_too() -> None:
    from fleet.api.rate import Rates

    clock = Clock()
    rates = Rates(2, 5, clock)
    for number in range(5):
        rates.count(f"10.0.0.{number}")
    with pytest.raises(Busy):
        rates.count("10.0.0.9")
    clock.now += 60
    rates.count("10.0.0.9")
