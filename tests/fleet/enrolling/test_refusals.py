"""What a board is told of its token, between the real two sides over TLS on loopback."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from fleet.enrolling import enrolment
from fleet.enrolling.board import connected
from fleet.trust.authority import Authority
from protos.enrolment import TOKEN_VARIABLE, refusal_text
from protos.errors import Denied, InvalidInput
from protos.v1 import enrolment_pb2 as pb
from tests.fleet.enrolling.test_enrolment import Fleet, fleet
from tests.support.boards import board
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "LOOK_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(enrolment, "FIRST_WAIT_SECONDS", 0.02)


def spoil(ours: Fleet, how: str) -> None:
    """Makes the fleet's only token useless."""
    [record] = ours.tokens.all()
    if how == "revoked":
        ours.tokens.revoke(record.token_id)
    else:
        ours.tokens._clock = lambda: record.expires + 1


def mine(told: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without what fleets of other tests on this machine say, which hear of the board by mDNS."""
    return [one for one in told if "is not of that fleet" not in one[0]]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("revoked", "it was revoked, or expired long ago"),
        ("expired", "has expired"),
        ("used", "good for one board, and another has used it"),
    ],
)
async def test_a_board_is_told_why_its_token_is_of_no_use_and_goes_on(tmp_path: Path, how: str, why: str) -> None:
    told: list[tuple[str, str]] = []
    async with fleet(tmp_path) as ours:
        token = ours.token()
        if how == "used":
            async with board(tmp_path / "other", "other", token) as other:
                ours.enrolment.heard(None, (other.address,), "seed")
                await asyncio.wait_for(other.taken(), 5)
        else:
            spoil(ours, how)
        async with board(tmp_path / "board", token=token, told=told) as one:
            ours.enrolment.heard(None, (one.address,), "seed")
            await wait_until(lambda: mine(told))
            [(said, advice)] = mine(told)
            assert why in said
            assert "glmfleet devices token" in advice
            assert f"glmfleet devices accept {one.board}" in advice
            await ours.pending()
            await ours.enrolment.accept("gate-7")
            assert (await asyncio.wait_for(one.taken(), 5)).fleet_id == ours.authority.fleet_id
            assert len(mine(told)) == 1  # whatever it was told while it waited


async def test_another_fleet_can_only_say_that_it_is_another(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    async with (
        fleet(tmp_path / "theirs") as theirs,
        fleet(tmp_path / "ours") as ours,
        board(tmp_path / "board", token=ours.token(), told=told) as one,
    ):
        theirs.enrolment.heard(None, (one.address,), "seed")
        # Coordinators of other tests may hear of the board, too.
        said = f"fleet {theirs.authority.fleet_id} has seen it, and its token is not of that fleet"
        await wait_until(lambda: said in [words for words, _ in told])
        ours.enrolment.heard(None, (one.address,), "seed")
        assert (await asyncio.wait_for(one.taken(), 5)).fleet_id == ours.authority.fleet_id


async def test_a_refusal_that_its_authority_did_not_sign_is_not_believed(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    async with fleet(tmp_path) as ours:
        token, stranger = ours.token(), Authority.open(tmp_path / "stranger")
        [record] = ours.tokens.all()
        async with board(tmp_path / "board", token=token, told=told) as one, connected([one.address]) as reached:
            text = refusal_text(one.board, record.public_key, pb.Refusal.REASON_EXPIRED)
            for reason, signature in (
                (pb.Refusal.REASON_EXPIRED, stranger.signature(text)),
                (pb.Refusal.REASON_USED, ours.authority.signature(text)),
                (pb.Refusal.REASON_EXPIRED, b""),
            ):
                with pytest.raises(Denied, match="not from the authority beside it"):
                    await reached.refuse(pb.Refusal(reason=reason, authority=ours.authority.certificate_pem, signature=signature))
            with pytest.raises(Denied):
                await reached.refuse(pb.Refusal(reason=pb.Refusal.REASON_USED, authority=b"x", signature=b"x"))
            assert told == []
        async with board(tmp_path / "without", told=told) as one, connected([one.address]) as reached:
            with pytest.raises(InvalidInput, match="has no token"):
                await reached.refuse(pb.Refusal(authority=ours.authority.certificate_pem))


async def test_strangers_cannot_fill_the_screen(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    async with fleet(tmp_path) as ours:
        token = ours.token()
        [record] = ours.tokens.all()
        async with board(tmp_path / "board", token=token, told=told) as one, connected([one.address]) as reached:

            async def refuse(authority: Authority) -> None:
                signature = authority.signature(refusal_text(one.board, record.public_key, pb.Refusal.REASON_EXPIRED))
                refusal = pb.Refusal(reason=pb.Refusal.REASON_EXPIRED, authority=authority.certificate_pem, signature=signature)
                await reached.refuse(refusal)

            for number in range(20):
                await refuse(Authority.open(tmp_path / f"stranger-{number}"))
            assert len(told) == 16
            await refuse(ours.authority)
            assert told[-1][0] == "its token has expired"


async def test_the_program_says_it_on_its_own_screen(tmp_path: Path) -> None:
    """As a process, as `glmfleet device run` starts it."""
    async with fleet(tmp_path) as ours:
        token = ours.token()
        spoil(ours, "expired")
        command = [
            sys.executable,
            "-m",
            "device",
            "--state",
            str(tmp_path / "dev"),
            "--name",
            "gate-7",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        environment = {**os.environ, TOKEN_VARIABLE: token.text}
        agent = await asyncio.create_subprocess_exec(*command, "--interface", "127.0.0.1", stderr=asyncio.subprocess.PIPE, env=environment)
        assert agent.stderr is not None
        try:
            port = await asyncio.wait_for(_port(agent.stderr), 60)
            ours.enrolment.heard(None, (f"127.0.0.1:{port}",), "seed")
            line = await asyncio.wait_for(_line(agent.stderr, "was not taken in"), 20)
            assert line == "gate-7 was not taken in: its token has expired"
        finally:
            agent.terminate()
            await agent.wait()


async def _port(screen: asyncio.StreamReader) -> int:
    return int((await _line(screen, "answers on port")).rpartition(" ")[2])


async def _line(screen: asyncio.StreamReader, words: str) -> str:
    while line := await screen.readline():
        if words in line.decode():
            return line.decode().strip()
    raise AssertionError(f"it ended without a line of {words!r}")
