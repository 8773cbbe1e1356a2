"""Boards that ask to be of the fleet, between the real two sides over TLS on loopback."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from device.agent.identity import load_identity
from device.agent.membership import Membership, accept
from fleet.devices.hearsay import DEFAULT_BUDGET, MOST_PLACES
from fleet.enrolling import enrolment
from fleet.enrolling.board import connected
from fleet.enrolling.enrolment import Enrolment
from fleet.trust.authority import Authority
from fleet.trust.tokens import Tokens
from protos.enrolment import Token, words
from protos.errors import Conflict, Denied, FleetError, InvalidInput, NotFound, Unavailable
from protos.ids import DeviceId
from protos.rpc_errors import remote
from protos.v1 import enrolment_pb2 as pb
from tests.support.black_hole import black_hole
from tests.support.boards import board
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "LOOK_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(enrolment, "FIRST_WAIT_SECONDS", 0.02)


@dataclass
class Fleet:
    authority: Authority
    tokens: Tokens
    enrolment: Enrolment
    joined: list[DeviceId] = field(default_factory=list)

    def token(self, seconds: float = 60.0) -> Token:
        return self.tokens.make(self.authority.public_der, seconds)[0]

    async def pending(self, name: str = "gate-7") -> None:
        await wait_until(lambda: name in [view.name for view in self.enrolment.views()])


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    authority = Authority.open(folder / "authority")
    tokens, joined = Tokens(folder / "authority"), list[DeviceId]()
    async with Enrolment(authority, tokens, lambda device, address, found_by: joined.append(device)) as made:
        yield Fleet(authority, tokens, made, joined)


async def test_a_board_is_taken_in_by_its_name(tmp_path: Path) -> None:
    async with fleet(tmp_path) as ours, board(tmp_path / "board") as one:
        ours.enrolment.heard(None, (one.address,), "seed")
        await ours.pending()
        [view] = ours.enrolment.views()
        assert (view.device_id, view.fingerprint, view.profile) == (one.board, one.fingerprint, "a test")
        assert view.fingerprint == words(one.board)
        await ours.enrolment.accept("gate-7")
        identity = await asyncio.wait_for(one.taken(), 5)
        assert (identity.device_id, identity.fleet_id) == (one.board, ours.authority.fleet_id)
        assert load_identity(tmp_path / "board") == identity
        assert ours.enrolment.views() == []
        assert ours.joined == [one.board]


@pytest.mark.parametrize("by", ["id", "fingerprint"])
async def test_or_by_its_id_or_its_fingerprint(tmp_path: Path, by: str) -> None:
    async with fleet(tmp_path) as ours, board(tmp_path / "board") as one:
        ours.enrolment.heard(None, (one.address,), "seed")
        await ours.pending()
        await ours.enrolment.accept(one.board if by == "id" else f" {one.fingerprint.upper()} ")
        assert ours.joined == [one.board]


async def test_two_of_one_name_are_told_apart(tmp_path: Path) -> None:
    async with fleet(tmp_path) as ours, board(tmp_path / "a") as one, board(tmp_path / "b") as other:
        for each in (one, other):
            ours.enrolment.heard(None, (each.address,), "mdns")
        await wait_until(lambda: len(ours.enrolment.views()) == 2)
        with pytest.raises(Conflict, match="2 boards are called 'gate-7'") as refused:
            await ours.enrolment.accept("gate-7")
        assert one.board in refused.value.advice
        assert other.board in refused.value.advice
        with pytest.raises(NotFound, match="no board 'gate-8'"):
            await ours.enrolment.accept("gate-8")
        await ours.enrolment.accept(other.board)
        assert ours.joined == [other.board]


async def test_a_token_needs_no_hand(tmp_path: Path) -> None:
    async with fleet(tmp_path) as ours:
        token = ours.token()
        async with board(tmp_path / "a", token=token) as one:
            ours.enrolment.heard(None, (one.address,), "mdns")
            await asyncio.wait_for(one.taken(), 5)
        async with board(tmp_path / "b", "thief", token=token) as other:
            ours.enrolment.heard(None, (other.address,), "mdns")
            await ours.pending("thief")
            assert ours.enrolment.views()[0].detail == "its token was used by another board"
        await wait_until(lambda: ours.enrolment.views() == [])  # it went away
        assert ours.joined == [one.board]


async def test_a_token_that_is_not_ours_or_is_too_old_leaves_it_to_the_operator(tmp_path: Path) -> None:
    async with fleet(tmp_path / "ours") as ours, fleet(tmp_path / "theirs") as theirs:
        old = ours.token(1e-9)
        async with board(tmp_path / "a", "late", token=old) as one, board(tmp_path / "b", "lost", token=theirs.token()) as other:
            for each in (one, other):
                ours.enrolment.heard(None, (each.address,), "mdns")
            await wait_until(lambda: len(ours.enrolment.views()) == 2)
            details = {view.name: view.detail for view in ours.enrolment.views()}
            assert details == {"late": "its token has expired", "lost": "its token is not one of this fleet"}
            await ours.enrolment.accept("late")
            with pytest.raises(Denied, match="not that of this board's token"):  # the board's own word: it waits for another fleet
                await ours.enrolment.accept("lost")
            theirs.enrolment.heard(None, (other.address,), "mdns")
            assert (await asyncio.wait_for(other.taken(), 5)).fleet_id == theirs.authority.fleet_id


async def test_a_board_that_was_rejected_is_not_shown_again(tmp_path: Path) -> None:
    async with fleet(tmp_path) as ours, board(tmp_path / "a") as one:
        ours.enrolment.heard(None, (one.address,), "mdns")
        await ours.pending()
        ours.enrolment.reject("gate-7")
        await asyncio.sleep(0.4)  # some more looks
        assert ours.enrolment.views() == []
        assert ours.joined == []


async def test_a_rejected_board_may_be_accepted_after_all(tmp_path: Path) -> None:
    async with fleet(tmp_path) as ours, board(tmp_path / "a") as one:
        ours.enrolment.heard(None, (one.address,), "mdns")
        await ours.pending()
        ours.enrolment.reject("gate-7")
        assert ours.enrolment.views() == []
        await ours.enrolment.accept("gate-7")
        assert ours.joined == [one.board]


async def test_a_name_does_not_pass_for_anothers_fingerprint(tmp_path: Path) -> None:
    async with fleet(tmp_path) as ours, board(tmp_path / "a") as victim, board(tmp_path / "b", victim.fingerprint) as thief:
        ours.enrolment.heard(thief.board, (thief.address,), "mdns")
        ours.enrolment.heard(victim.board, (victim.address,), "mdns")
        await wait_until(lambda: len(ours.enrolment.views()) == 2)
        await ours.enrolment.accept(victim.fingerprint)
        assert ours.joined == [victim.board]


async def test_a_forged_advert_does_not_hide_a_board(tmp_path: Path) -> None:
    async with fleet(tmp_path) as ours, board(tmp_path / "a") as one:
        ours.enrolment.heard(one.board, (one.address,), "mdns")
        ours.enrolment.heard(one.board, ("127.0.0.1:1",), "mdns")
        await ours.pending()
        await asyncio.sleep(0.3)  # some more looks
        assert [view.address for view in ours.enrolment.views()] == [one.address]


async def test_a_token_that_cannot_be_judged_leaves_it_to_the_operator(tmp_path: Path) -> None:
    async with fleet(tmp_path) as ours, board(tmp_path / "a", token=ours.token()) as one:
        (tmp_path / "authority" / "tokens.json").write_text("{")
        ours.enrolment.heard(one.board, (one.address,), "mdns")
        await ours.pending()
        assert "tokens.json cannot be read" in ours.enrolment.views()[0].detail
        await ours.enrolment.accept(one.board)


@pytest.mark.parametrize("name", ["a\tb", " ", "x" * 65])
async def test_a_name_that_no_certificate_can_carry_is_told_to_the_board(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="not a name"):
        async with board(tmp_path, name):
            pass


async def test_a_board_answers_over_ipv6(tmp_path: Path) -> None:
    async with fleet(tmp_path) as ours, board(tmp_path / "a", bind="[::1]:0") as one:
        ours.enrolment.heard(one.board, (one.address,), "mdns")
        await ours.pending()
        await ours.enrolment.accept(one.board)
        assert ours.joined == [one.board]


async def test_a_board_cannot_be_taken_twice(tmp_path: Path) -> None:
    async with fleet(tmp_path / "a") as first, fleet(tmp_path / "b") as second, board(tmp_path / "board") as one:
        for ours in (first, second):
            ours.enrolment.heard(None, (one.address,), "mdns")
            await ours.pending()
        await first.enrolment.accept("gate-7")
        with pytest.raises(Conflict, match="belongs to a fleet already"):
            await second.enrolment.accept("gate-7")
        assert load_identity(tmp_path / "board").fleet_id == first.authority.fleet_id


async def test_who_is_no_board_is_forgotten(tmp_path: Path) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, fleet(tmp_path) as ours:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(FleetError):
            async with connected([address]):
                pass
        ours.enrolment.heard(None, (address,), "mdns")
        await wait_until(lambda: list(ours.enrolment._hearsay.unproven()))
        assert ours.enrolment.views() == []
    with pytest.raises(Unavailable, match="connection refused"):
        async with connected([address]):
            pass


async def test_of_its_addresses_the_one_that_answers_counts(tmp_path: Path) -> None:
    """Nobody is at the first; at the second is another board."""
    async with fleet(tmp_path) as ours, board(tmp_path / "a") as one, board(tmp_path / "b", "gate-8") as other:
        ours.enrolment.heard(one.board, ("127.0.0.1:1", other.address, one.address), "mdns")
        await ours.pending()
        assert [view.address for view in ours.enrolment.views()] == [one.address]


async def test_an_address_that_is_silent_is_passed(tmp_path: Path) -> None:
    """Not waited for: the next is tried beside it."""
    async with fleet(tmp_path) as ours, board(tmp_path / "board") as one:
        port = int(one.address.rpartition(":")[2])
        with black_hole("127.0.0.9", port):
            ours.enrolment.heard(one.board, (f"127.0.0.9:{port}", one.address), "mdns")
            await wait_until(lambda: bool(ours.enrolment.views()), 3)  # of the 5 s that a handshake may take
            assert ours.enrolment.views()[0].address == one.address


async def test_a_certificate_of_no_known_version_keeps_no_board_out(tmp_path: Path) -> None:
    """A stranger answers first at the address that is said to be the board's; then the board does."""
    rogue = Authority.open(tmp_path / "rogue")
    rogue.issue_folder(tmp_path / "shown", "device", "x")
    lines = (tmp_path / "shown" / "certificate.pem").read_text().splitlines()
    der = bytearray(base64.b64decode("".join(lines[1:-1])))
    der[der.index(bytes.fromhex("a003020102")) + 4] = 1  # v2
    (tmp_path / "odd.pem").write_text(f"{lines[0]}\n{base64.encodebytes(bytes(der)).decode()}{lines[-1]}\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "odd.pem", tmp_path / "shown" / "key.pem")

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    async with server, fleet(tmp_path) as ours, board(tmp_path / "a") as one:
        port = server.sockets[0].getsockname()[1]
        ours.enrolment.heard(one.board, (f"127.0.0.1:{port}",), "mdns")
        await asyncio.sleep(0.2)
        ours.enrolment.heard(one.board, (one.address,), "mdns")
        await ours.pending()


@pytest.mark.long
async def test_thousands_of_addresses_cost_few_dials_and_keep_no_board_out(tmp_path: Path) -> None:
    """All that is announced before it, at the same host and at others, is nobody."""
    async with fleet(tmp_path) as ours, board(tmp_path / "a") as one:
        for n in range(20_000):
            ours.enrolment.heard(DeviceId(f"{n:016}"), (f"127.0.{n % 200}.9:{1 + n // 200}",), "mdns")
        ours.enrolment.heard(one.board, (one.address,), "mdns")
        started, looks = asyncio.get_running_loop().time(), ours.enrolment._hearsay.looks
        await wait_until(lambda: [view.device_id for view in ours.enrolment.views()] == [one.board], 30)
        seconds = asyncio.get_running_loop().time() - started
        assert ours.enrolment._hearsay.looks - looks <= DEFAULT_BUDGET.burst + DEFAULT_BUDGET.per_second * seconds + 1
        assert len(ours.enrolment._hearsay) <= MOST_PLACES
        assert len(ours.enrolment._heard) == 1


async def test_one_machine_cannot_be_all_the_boards_that_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "MOST_OF_A_HOST", 1)
    async with (
        fleet(tmp_path) as ours,
        board(tmp_path / "a") as one,
        board(tmp_path / "b", "gate-8", bind="127.0.0.2:0") as other,
        board(tmp_path / "c", "gate-9") as third,
    ):
        ours.enrolment.heard(one.board, (one.address,), "mdns")
        await ours.pending()
        for each in (third, other):
            ours.enrolment.heard(each.board, (each.address,), "mdns")
        await ours.pending("gate-8")
        assert [view.name for view in ours.enrolment.views()] == ["gate-7", "gate-8"]


def other_folder(folder: Path) -> Membership:
    """A membership for another board's key."""
    Authority.open(folder / "authority").issue_folder(folder / "other", "device", "other")
    return Membership((folder / "other" / "certificate.pem").read_bytes(), (folder / "other" / "authority.pem").read_bytes())


async def test_a_board_takes_only_what_is_for_it(tmp_path: Path) -> None:
    authority, rogue = Authority.open(tmp_path / "authority"), Authority.open(tmp_path / "rogue")
    async with board(tmp_path / "board") as one, connected([one.address]) as link:
        request = (await link.apply()).signing_request
        good = authority.sign(request, "device")
        offers = {
            "no certificate": Membership(b"x", authority.certificate_pem),
            "for another key": other_folder(tmp_path),
            "not from the authority": Membership(good, rogue.certificate_pem),
            "or more than one": Membership(good, authority.certificate_pem + rogue.certificate_pem),
            "not from the authority beside": Membership(good, good),
            "no device of a fleet": Membership(authority.sign(request, "coordinator"), authority.certificate_pem),
        }
        for detail, offered in offers.items():
            with pytest.raises(Denied, match=detail):
                await link.join(offered.certificate, offered.authority)
            assert not (tmp_path / "board" / "certificate.pem").exists()
        with pytest.raises(InvalidInput, match="a nonce of 3 bytes"), remote("board"):
            await link.peer.enrolment_stub.Apply(pb.ApplyRequest(nonce=b"abc"), metadata=link.peer.metadata)
        await link.join(good, authority.certificate_pem)
        assert (await one.taken()).fleet_id == authority.fleet_id


def test_the_token_decides_which_fleet(tmp_path: Path) -> None:
    authority, rogue = Authority.open(tmp_path / "authority"), Authority.open(tmp_path / "rogue")
    token, _ = Tokens(tmp_path / "authority").make(authority.public_der)
    rogue.issue_folder(tmp_path / "board", "device", "gate-7")
    offered = Membership((tmp_path / "board" / "certificate.pem").read_bytes(), rogue.certificate_pem)
    for name in ("certificate.pem", "authority.pem"):
        (tmp_path / "board" / name).unlink()
    with pytest.raises(Denied, match="not that of this board's token"):
        accept(tmp_path / "board", offered, token.authority)
    assert accept(tmp_path / "board", offered, None).fleet_id == rogue.fleet_id
