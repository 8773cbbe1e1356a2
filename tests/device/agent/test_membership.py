"""A member's next certificate, and its leaving."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from device.agent.identity import Expired, load_identity, own_key, signing_request, utc_now
from device.agent.membership import Membership, accept, leave, pinned_authority, renew
from fleet.trust.authority import Authority
from protos.errors import Conflict, Denied
from tests.support.members import TestFleet, credentials_of


def test_the_next_certificate_is_taken_and_kept(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    credentials = credentials_of(fleet.member("dev-1"))
    before = credentials.certificate
    offered = fleet.authority.sign(signing_request(own_key(tmp_path / "dev-1"), "dev-1"), "device")
    renew(tmp_path / "dev-1", credentials, offered)
    assert credentials.certificate == offered != before
    assert load_identity(tmp_path / "dev-1").credentials == credentials


@pytest.mark.parametrize("what", ["another key", "another role", "another authority", "expired", "not yet", "two", "nothing"])
def test_another_certificate_is_refused_and_the_one_there_is_stays(tmp_path: Path, what: str) -> None:
    fleet = TestFleet.open(tmp_path)
    credentials = credentials_of(fleet.member("dev-1"))
    before = credentials.certificate
    mine = signing_request(own_key(tmp_path / "dev-1"), "dev-1")
    offered = {
        "another key": lambda: credentials_of(fleet.member("dev-2")).certificate,
        "another role": lambda: fleet.authority.sign(mine, "coordinator"),
        "another authority": lambda: Authority.open(tmp_path / "other").sign(mine, "device"),
        "expired": lambda: Authority.open(tmp_path / "authority", lambda: utc_now() - timedelta(days=2)).sign(mine, "device"),
        "not yet": lambda: Authority.open(tmp_path / "authority", lambda: utc_now() + timedelta(days=2)).sign(mine, "device"),
        "two": lambda: fleet.authority.sign(mine, "device") + before,
        "nothing": lambda: b"",
    }[what]()
    with pytest.raises(Denied):
        renew(tmp_path / "dev-1", credentials, offered)
    assert credentials.certificate == before == (tmp_path / "dev-1" / "certificate.pem").read_bytes()


def test_a_board_whose_certificate_has_expired_takes_the_next_from_its_own_authority_alone(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    late = utc_now() + timedelta(days=3)
    me = fleet.member("dev-1")
    with pytest.raises(Expired, match="expired on"):
        load_identity(tmp_path / "dev-1", lambda: late)
    mine, other = signing_request(own_key(tmp_path / "dev-1"), "dev-1"), Authority.open(tmp_path / "other", lambda: late)
    pinned = pinned_authority(tmp_path / "dev-1")
    with pytest.raises(Denied, match="not the one it belongs to"):
        accept(tmp_path / "dev-1", Membership(other.sign(mine, "device"), other.certificate_pem), pinned, anew=True, clock=lambda: late)
    ours = Authority.open(tmp_path / "authority", lambda: late)
    offered = Membership(ours.sign(mine, "device"), ours.certificate_pem)
    with pytest.raises(Conflict):
        accept(tmp_path / "dev-1", offered, pinned, clock=lambda: late)
    with pytest.raises(Denied, match="is valid from"):
        accept(tmp_path / "dev-1", offered, pinned, anew=True, clock=lambda: late + timedelta(days=9))
    assert accept(tmp_path / "dev-1", offered, pinned, anew=True, clock=lambda: late).device_id == me.device_id
    assert load_identity(tmp_path / "dev-1", lambda: late).device_id == me.device_id


def test_an_authority_that_has_expired_is_not_waited_for(tmp_path: Path) -> None:
    TestFleet.open(tmp_path).member("dev-1")
    with pytest.raises(Denied) as caught:
        load_identity(tmp_path / "dev-1", lambda: utc_now() + timedelta(days=20 * 365))
    assert not isinstance(caught.value, Expired)


@pytest.mark.parametrize("wipe", [False, True])
def test_leaving(tmp_path: Path, wipe: bool) -> None:
    TestFleet.open(tmp_path).member("dev-1")
    folder = tmp_path / "dev-1"
    for name in ("blobs", "prepacked"):
        (folder / name).mkdir()
        (folder / name / "x").write_text("weights")
    (folder / "log.txt").write_text("somebody else's")
    assert leave(folder, wipe=wipe)
    assert not leave(folder, wipe=wipe)
    left = {path.name for path in folder.iterdir()} - {"lock"}
    assert left == {"log.txt"} if wipe else left == {"log.txt", "key.pem", "blobs", "prepacked"}
