"""Addresses of devices over a restart of the coordinator."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from fleet.devices import remembered as module
from fleet.devices.remembered import Proven, Remembered
from protos.ids import DeviceId

ONE, TWO = DeviceId("a" * 16), DeviceId("b" * 16)


async def test_what_was_proven_last_comes_first_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    async with Remembered(file) as known:
        assert known.all == ()
        assert known.note(ONE, "192.168.7.2:7420") is None
        known.note(TWO, "[fe80::2%eth0]:7420")
        assert known.note(ONE, "192.168.7.9:7420") == "192.168.7.2:7420"
        assert known.note(ONE, "192.168.7.9:7420") is None
    assert Remembered(file).all == (Proven(ONE, "192.168.7.9:7420"), Proven(TWO, "[fe80::2%eth0]:7420"))
    assert file.stat().st_mode & 0o777 == 0o600


async def test_nothing_is_written_while_nothing_is_new(tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    async with Remembered(file) as known:
        known.note(ONE, "host:1")
    file.unlink()
    async with Remembered(file):
        pass
    assert not file.exists()


async def test_so_many_are_remembered_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    async with Remembered(tmp_path / "addresses.json") as known:
        for letter in "abcde":
            known.note(DeviceId(letter * 16), "host:1")
    assert [one.device[0] for one in Remembered(tmp_path / "addresses.json").all] == ["e", "d", "c"]


@pytest.mark.parametrize(
    "damaged", [b"", b"[", b"{}", b'[{"device": "x", "address": "h:1"}]', json.dumps([{"device": ONE, "address": "nonsense"}]).encode()]
)
def test_a_damaged_file_is_no_reason_not_to_start(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "addresses.json").write_bytes(damaged)
    assert Remembered(tmp_path / "addresses.json").all == ()


async def test_a_disk_that_takes_nothing_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with Remembered(tmp_path / "gone" / "addresses.json") as known:
            known.note(ONE, "host:1")
            await known._write()
            assert "are not remembered" in caplog.text
            (tmp_path / "gone").mkdir()  # there is room again
    assert Remembered(tmp_path / "gone" / "addresses.json").all != ()
