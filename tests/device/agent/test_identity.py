"""The device's identity: read from its folder, with a clear word when something is amiss."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from device.agent.identity import INSECURE_FLEET, insecure_identity, load_identity
from fleet.trust.authority import Authority
from protos.errors import Denied, InvalidInput
from protos.ids import parse_device_id
from tests.support.members import TestFleet, credentials_of


def test_a_member_knows_itself_and_its_fleet(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    one, two = fleet.member("one"), fleet.member("two")
    assert one.fleet_id == two.fleet_id == fleet.fleet_id
    assert one.device_id != two.device_id
    assert load_identity(tmp_path / "one") == one
    held = credentials_of(one)
    assert held.private_key == (tmp_path / "one" / "key.pem").read_bytes()
    assert held.certificate == (tmp_path / "one" / "certificate.pem").read_bytes()
    assert held.authority == fleet.authority.certificate_pem


def test_a_new_certificate_leaves_the_id(tmp_path: Path) -> None:
    fleet, other = TestFleet.open(tmp_path), TestFleet.open(tmp_path / "other")
    before = fleet.member("one")
    other.authority.issue_folder(tmp_path / "one", "device", "one")
    after = load_identity(tmp_path / "one")
    assert after.device_id == before.device_id
    assert after.fleet_id == other.fleet_id != before.fleet_id


@pytest.mark.parametrize("name", ["key.pem", "certificate.pem", "authority.pem"])
def test_what_is_missing_or_damaged_is_named(tmp_path: Path, name: str) -> None:
    TestFleet.open(tmp_path).member("one")
    file = tmp_path / "one" / name
    good = file.read_bytes()
    for damage in (b"", good[: len(good) // 2], b"\xff" * 50):
        file.write_bytes(damage)
        with pytest.raises(Denied, match=f"{name} is damaged") as caught:
            load_identity(tmp_path / "one")
        assert caught.value.advice
    file.unlink()
    with pytest.raises(Denied, match=f"{name} is missing") as caught:
        load_identity(tmp_path / "one")
    assert "glmfleet" in caught.value.advice
    file.mkdir()
    with pytest.raises(Denied, match="cannot read"):
        load_identity(tmp_path / "one")


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    fleet.member("one")
    fleet.member("two")
    TestFleet.open(tmp_path / "other").member("three")
    key = (tmp_path / "one" / "key.pem").read_bytes()
    (tmp_path / "one" / "key.pem").write_bytes((tmp_path / "two" / "key.pem").read_bytes())
    with pytest.raises(Denied, match="does not belong to its certificate"):
        load_identity(tmp_path / "one")
    (tmp_path / "one" / "key.pem").write_bytes(key)
    (tmp_path / "one" / "authority.pem").write_bytes((tmp_path / "other" / "three" / "authority.pem").read_bytes())
    with pytest.raises(Denied, match="is not from the authority beside it"):
        load_identity(tmp_path / "one")


def test_the_clock_counts(tmp_path: Path) -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    Authority.open(tmp_path / "ca", lambda: now).issue_folder(tmp_path / "dev", "device", "dev")
    assert load_identity(tmp_path / "dev", lambda: now - timedelta(hours=23))
    assert load_identity(tmp_path / "dev", lambda: now + timedelta(hours=23))
    with pytest.raises(Denied, match=r"the certificate in .* expired on 2026-11-24 00:00 UTC"):
        load_identity(tmp_path / "dev", lambda: now + timedelta(hours=25))
    with pytest.raises(Denied, match="is valid from 2026-11-22 00:00 UTC; it is 1970-01-01") as caught:
        load_identity(tmp_path / "dev", lambda: datetime(1970, 1, 1, tzinfo=UTC))
    assert caught.value.advice == "set this machine's clock"


def test_insecure_is_a_key_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "dev"
    made = insecure_identity(folder)
    assert insecure_identity(folder) == made
    assert parse_device_id(made.device_id) == made.device_id
    assert (made.fleet_id, made.credentials) == (INSECURE_FLEET, None)
    assert [file.name for file in folder.iterdir()] == ["key.pem"]
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert insecure_identity(tmp_path / "another").device_id != made.device_id


def test_a_member_keeps_its_id_when_run_insecurely(tmp_path: Path) -> None:
    member = TestFleet.open(tmp_path).member("one")
    assert insecure_identity(tmp_path / "one").device_id == member.device_id


def test_insecure_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write"):
        insecure_identity(tmp_path / "file" / "dev")
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(Denied, match=r"key\.pem is damaged"):
        insecure_identity(tmp_path)
