"""Where a device that dials out is told to dial; the connection itself: tests/fleet/devices/test_relays.py."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from device.agent import dial_out
from protos.errors import FleetError, Internal, Unavailable
from protos.net import https
from tests.support.members import TestFleet, credentials_of
from tests.support.waiting import wait_until

MEMBER = "abcdefgh22334455"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"relay_port": 0, "coordinator_id": ""}, Unavailable),
        ({}, Unavailable),  # of a release before
        ({"relay_port": "7401", "coordinator_id": MEMBER}, Unavailable),
        ({"relay_port": 70000, "coordinator_id": MEMBER}, Unavailable),
        ({"relay_port": 7401, "coordinator_id": "../x"}, Internal),
        ({"relay_port": 7401}, Internal),
        ([], Internal),
    ],
)
def test_what_names_no_relay_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, error: type[FleetError]) -> None:
    mine = credentials_of(TestFleet.open(tmp_path).member("dev-1"))
    monkeypatch.setattr(https, "ask", lambda *_given, **_named: answer)
    with pytest.raises(error):
        dial_out._where("desk:7400", mine)


def test_the_relay_is_at_the_coordinator_s_own_address_and_only_its_fleet_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = credentials_of(TestFleet.open(tmp_path).member("dev-1"))
    asked: list[dict[str, Any]] = []

    def ask(_address: str, *_given: object, **named: Any) -> dict[str, Any]:
        asked.append(named)
        return {"relay_port": 7401, "coordinator_id": MEMBER}

    monkeypatch.setattr(https, "ask", ask)
    assert dial_out._where("desk:7400", mine) == ("desk:7401", MEMBER)
    assert dial_out._where("[fd00::7]:7400", mine) == ("[fd00::7]:7401", MEMBER)
    assert all(named["fleet"] == mine.fleet and named["context"].check_hostname for named in asked)


async def test_why_nobody_reaches_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = 0

    def where(*_given: object) -> Any:
        nonlocal tried
        tried += 1
        raise Unavailable("it takes no devices that dial it")

    monkeypatch.setattr(dial_out, "_where", where)
    monkeypatch.setattr(dial_out, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(dial_out, "LONGEST_WAIT_SECONDS", 0.02)
    mine = credentials_of(TestFleet.open(tmp_path).member("dev-1"))
    with caplog.at_level(logging.WARNING):
        task = asyncio.create_task(dial_out.dial_out("desk:7400", mine, "127.0.0.1:1"))
        await wait_until(lambda: tried > 3)
        task.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        "nobody reaches this device through desk:7400: it takes no devices that dial it (tried again)"
    ]
