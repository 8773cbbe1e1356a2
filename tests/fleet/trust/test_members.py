from __future__ import annotations

from pathlib import Path

import pytest

from fleet.trust.authority import Authority
from fleet.trust.members import Members
from protos.errors import Corrupt, Denied
from protos.ids import DeviceId
from tests.support.members import TestFleet

A, B = DeviceId("a" * 16), DeviceId("b" * 16)


def test_who_was_given_a_certificate_is_known_by_the_name_it_had_last(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    first, gateway = fleet.member("dev-1"), fleet.member("gate", "gateway")
    fleet.authority.issue_folder(tmp_path / "dev-1", "device", "kitchen")
    found = {record.member_id: (record.role, record.name, record.revoked) for record in Members(tmp_path / "authority").all()}
    assert found == {first.device_id: ("device", "kitchen", 0.0), gateway.device_id: ("gateway", "gate", 0.0)}


def test_one_that_was_expelled_is_given_no_other_certificate(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    expelled = fleet.member("dev-1")
    Members(tmp_path / "authority").revoke(expelled.device_id)
    Members(tmp_path / "authority").revoke(expelled.device_id)
    (tmp_path / "dev-1" / "certificate.pem").unlink()
    with pytest.raises(Denied, match=r"dev-1 .* was expelled") as caught:
        fleet.authority.issue_folder(tmp_path / "dev-1", "device", "dev-1")
    assert "leave --wipe" in caught.value.advice
    assert not (tmp_path / "dev-1" / "certificate.pem").exists()
    fleet.member("dev-2")


def test_the_expelled_stay_so_after_a_restart_and_whoever_they_are(tmp_path: Path) -> None:
    members = Members(tmp_path, lambda: 5.0)
    members.admit(A, "device", "one")
    members.revoke(A)
    members.revoke(B, "never seen")
    again = Members(tmp_path, lambda: 9.0)
    assert again.revoked() == {A, B}
    assert [(record.name, record.revoked) for record in sorted(again.all(), key=lambda one: one.name)] == [
        ("never seen", 5.0),
        ("one", 5.0),
    ]
    again.revoke(A)
    assert (record := again.find(A)) is not None
    assert record.revoked == 5.0


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"member_id": "a"}]', "null"])
def test_a_damaged_list_is_not_taken_for_an_empty_one(tmp_path: Path, text: str) -> None:
    """Whoever was expelled would be a member again."""
    fleet = TestFleet.open(tmp_path)
    fleet.member("dev-1")
    (tmp_path / "authority" / "members.json").write_text(text)
    with pytest.raises(Corrupt, match=r"members\.json cannot be read"):
        fleet.authority.members.revoked()
    with pytest.raises(Corrupt):
        Authority.open(tmp_path / "authority").issue_folder(tmp_path / "dev-2", "device", "dev-2")


def test_a_list_that_is_gone_is_not_taken_for_an_empty_one_either(tmp_path: Path) -> None:
    fleet = TestFleet.open(tmp_path)
    assert fleet.authority.members.all() == []  # it never had one
    fleet.member("dev-1")
    file = tmp_path / "authority" / "members.json"
    assert file.stat().st_mode & 0o777 == 0o600
    file.unlink()
    for ask in (fleet.authority.members.revoked, fleet.authority.members.all, lambda: fleet.member("dev-2")):
        with pytest.raises(Corrupt, match=r"members\.json is gone: whoever was expelled") as caught:
            ask()
        assert "restore it from a backup" in caught.value.advice
    file.write_text("[]")  # as the advice says
    fleet.member("dev-2")


def test_the_first_change_takes_no_other_s_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that both find no list yet."""
    late = Members(tmp_path)
    begin = late._begin

    def meanwhile() -> None:
        Members(tmp_path).admit(A, "device", "one")
        (tmp_path / "members.lock").rename(tmp_path / "hidden")  # it has looked already
        begin()
        (tmp_path / "hidden").rename(tmp_path / "members.lock")

    monkeypatch.setattr(late, "_begin", meanwhile)
    late.admit(B, "device", "two")
    assert {record.member_id for record in late.all()} == {A, B}
