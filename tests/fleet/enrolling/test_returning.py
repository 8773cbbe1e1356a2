"""Boards that were away for longer than their certificate lived."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from device.agent.identity import Expired, load_identity, utc_now
from device.agent.membership import pinned_authority
from fleet.enrolling import enrolment
from fleet.enrolling.enrolment import Enrolment
from fleet.trust.authority import Authority
from fleet.trust.tokens import Tokens
from protos.errors import Denied
from protos.ids import DeviceId
from tests.support.boards import board
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "LOOK_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(enrolment, "FIRST_WAIT_SECONDS", 0.02)


def long_ago(folder: Path) -> Authority:
    """The fleet as it was when the board was taken in."""
    return Authority.open(folder / "authority", lambda: utc_now() - timedelta(days=3))


def enrolling(folder: Path, authority: Authority, joined: list[DeviceId]) -> Enrolment:
    return Enrolment(authority, Tokens(folder / "authority"), lambda device, address, found_by: joined.append(device))


async def test_a_member_that_was_away_is_given_a_certificate_without_a_question(tmp_path: Path) -> None:
    long_ago(tmp_path).issue_folder(tmp_path / "gate-7", "device", "gate-7")
    with pytest.raises(Expired):
        load_identity(tmp_path / "gate-7")
    joined: list[DeviceId] = []
    async with (
        enrolling(tmp_path, Authority.open(tmp_path / "authority"), joined) as ours,
        board(tmp_path / "gate-7", returns=pinned_authority(tmp_path / "gate-7")) as one,
    ):
        ours.heard(one.board, (one.address,), "mdns")
        assert (await asyncio.wait_for(one.taken(), 5)).device_id == one.board
        await wait_until(lambda: joined == [one.board])
        assert load_identity(tmp_path / "gate-7").device_id == one.board


async def test_one_that_was_expelled_meanwhile_is_not(tmp_path: Path) -> None:
    before = long_ago(tmp_path)
    before.issue_folder(tmp_path / "gate-7", "device", "gate-7")
    async with (
        enrolling(tmp_path, Authority.open(tmp_path / "authority"), []) as ours,
        board(tmp_path / "gate-7", returns=pinned_authority(tmp_path / "gate-7")) as one,
    ):
        before.members.revoke(one.board)
        ours.heard(one.board, (one.address,), "mdns")
        await wait_until(lambda: [view.name for view in ours.views()] == ["gate-7"])
        assert "was expelled from this fleet" in ours.views()[0].detail
        with pytest.raises(Denied, match="was expelled"):
            await ours.accept("gate-7")
        assert not one._taken.done()


async def test_a_key_that_was_never_taken_in_and_a_member_of_another_fleet_are_not(tmp_path: Path) -> None:
    """Whoever says that it returns has to have been here; and one of another fleet takes no certificate of ours."""
    ours_now = Authority.open(tmp_path / "authority")
    long_ago(tmp_path / "other").issue_folder(tmp_path / "gate-8", "device", "gate-8")
    long_ago(tmp_path / "third").issue_folder(tmp_path / "gate-9", "device", "gate-9")
    (tmp_path / "gate-9" / "authority.pem").write_bytes(ours_now.certificate_pem)
    async with (
        enrolling(tmp_path, ours_now, []) as ours,
        board(tmp_path / "gate-8", "gate-8", returns=pinned_authority(tmp_path / "gate-8")) as foreign,
        board(tmp_path / "gate-9", "gate-9", returns=pinned_authority(tmp_path / "gate-9")) as liar,
    ):
        for one in (foreign, liar):
            ours.heard(one.board, (one.address,), "mdns")
        await wait_until(lambda: len(ours.views()) == 2)
        details = {view.name: view.detail for view in ours.views()}
        assert "a member of another fleet" in details["gate-8"]
        assert "does not know it" in details["gate-9"]
        with pytest.raises(Denied, match="not the one it belongs to"):
            await ours.accept("gate-8")
