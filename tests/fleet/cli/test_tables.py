"""Tables at 80 columns: what can be copied is whole, nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fleet.cli.tables import Column, print_table
from fleet.home import Home
from tests.support.command import Command
from tests.support.fake_coordinator import (
    BOARD,
    COST,
    DEPLOYMENT,
    DEVICE,
    PIPELINE,
    PLAN,
    REQUEST,
    RESULT,
    ROW,
    STAGE,
    TOKEN,
    FakeCoordinator,
)

LONG = [f"gateway-in-the-second-hall-of-the-northern-plant-number-{number}" for number in (1, 2, 10)]
MIDDLE = [f"jetson-in-hall-7-{number}" for number in (1, 2, 10)]
PROFILE = "jetson-orin-nano-super"


@pytest.mark.parametrize("names", [LONG, MIDDLE, ["a", *LONG], ["[bold]x" * 8]], ids=["long", "middle", "mixed", "markup"])
@pytest.mark.parametrize("text", [PROFILE, "between words it may break, and it does so here", "x" * 70], ids=["word", "words", "one-long"])
def test_the_first_column_s_names_are_whole_and_nothing_is_lost(capsys: pytest.CaptureFixture[str], names: list[str], text: str) -> None:
    columns = [Column("name", "names"), Column("what"), Column("J", "figure"), Column("W", "figure")]
    print_table(columns, [[name, text, "123,456", "7.5"] for name in names])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "what", "J", "W"]
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line[0] != " "] == names
    assert sum(line.split()[-2:] == ["123,456", "7.5"] for line in lines) == len(names)
    what, joules = header.index("what"), header.index("J") + 1 - len("123,456")
    rest = [line for line in lines if line.strip() not in names]
    assert "".join("".join(line[what:joules].split()) for line in rest) == "".join(text.split()) * len(names)


def test_names_in_other_columns_break_between_and_the_table_gets_wider_at_last(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column("name", "names"), Column("state"), Column("devices", "names")]
    print_table(columns, [["tiny", "degraded", ", ".join(LONG)]])
    out = capsys.readouterr().out
    assert all(name in out for name in LONG)
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    print_table(columns, [["tiny", "degraded", "x" * 90]])
    assert "x" * 90 in capsys.readouterr().out


def test_a_table_without_rows_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([Column("name", "names"), Column("J", "figure")], [])
    assert capsys.readouterr().out.split() == ["name", "J"]


@pytest.fixture
def long_named(coordinator: FakeCoordinator) -> FakeCoordinator:
    stages = tuple(replace(STAGE, device_name=name, profile=PROFILE) for name in LONG)
    pipeline = replace(PIPELINE, pipeline_id=f"{LONG[0]}-1", stages=stages)
    full: dict[str, Any] = {"profile": PROFILE, "power_watts": 3.25, "temperature_celsius": 40.0, "battery_fraction": 0.5}
    coordinator.found = [replace(DEVICE, device_id=f"d{number}", name=name, **full) for number, name in enumerate(LONG)]
    coordinator.asking = [replace(BOARD, name=name, profile=PROFILE, address="[2001:db8::1234:5678]:7420") for name in LONG]
    coordinator.deployed = [replace(DEPLOYMENT, name=LONG[0], model=LONG[1], stages=stages, pipelines=(pipeline,))]
    coordinator.rows = [replace(ROW, key=name, busy_joules=123456.0, idle_joules=123456.0) for name in LONG]
    coordinator.result = replace(RESULT, devices=tuple(replace(COST, device_id=name, device_name=name, profile=PROFILE) for name in LONG))
    return coordinator


@pytest.mark.parametrize(
    ("command", "whole"),
    [
        ("devices", LONG),
        ("devices pending", [*LONG, *BOARD.fingerprint.split(), "[2001:db8::1234:5678]:7420"]),
        ("deployments", LONG),
        ("telemetry", LONG),
        ("telemetry --by model", LONG),
        ("generate hello", LONG),
    ],
)
def test_what_commands_list_can_be_copied(
    glmfleet: Command, served: Home, long_named: FakeCoordinator, command: str, whole: list[str]
) -> None:
    code, out, err = glmfleet(*command.split(), "--home", served.path)
    assert code == 0
    table = (err if command.startswith("generate") else out).splitlines()
    assert all(any(name in line for line in table) for name in whole)


def test_a_plan_and_requests_can_be_copied(
    glmfleet: Command, served: Home, long_named: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeCoordinator, "plan", _planned)
    monkeypatch.setattr(FakeCoordinator, "requests", lambda _self: [replace(REQUEST, pipeline_id=f"{LONG[0]}-1")])
    out = glmfleet("plan", "tiny", "--home", served.path)[1]
    assert all(any(line.startswith(name) for line in out.splitlines()) for name in LONG)
    out = glmfleet("requests", "--home", served.path)[1]
    assert f"{LONG[0]}-1" in out


async def _planned(_self: FakeCoordinator, _request: object, standby: int = 0) -> object:
    return replace(PLAN, stages=tuple(replace(STAGE, device_name=name, profile=PROFILE) for name in LONG))


def test_devices_of_one_name_are_told_apart(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.found = [DEVICE, replace(DEVICE, device_id="eeeeffff22223333")]
    err = glmfleet("devices", "--home", served.path)[2]
    assert f"2 devices are called dev-1; their ids tell them apart: {DEVICE.device_id}, eeeeffff22223333" in err


def test_the_id_of_a_token_is_whole(glmfleet: Command, served: Home) -> None:
    out = glmfleet("devices", "token", "--list", "--home", served.path)[1]
    assert TOKEN.token_id in out
    assert (TOKEN.used_by or "") in out
