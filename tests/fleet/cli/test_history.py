"""The history on a terminal: sparklines, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from fleet.cli.history import FIGURES, history_rows
from fleet.cli.sparklines import BLOCKS, spark
from fleet.home import Home
from fleet.telemetry.views import History
from tests.support.command import Command
from tests.support.fake_coordinator import PAST, ROW, FakeCoordinator


def test_each_figure_has_a_line_that_fits(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    code, out, _ = glmfleet("telemetry", "--history", "--since", "1h", "--home", served.path)
    assert (code, coordinator.asked) == (0, [(3600.0, None)])
    lines = out.splitlines()
    assert lines[0] == "fleet of 2 devices, modelled"
    assert lines[2].split() == ["W", lines[2].split()[1], lines[2].split()[2], "10.5", "11.2", "12.0"]
    assert [line.split()[0] for line in lines[2:8]] == ["W", "tokens/s", "J/token", "busy", "°C", "memory"]
    assert all(len(line) <= 80 for line in lines)


def test_a_device_alone_is_asked_for_by_name(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.past = replace(PAST, series=(replace(PAST.series[0], key="dev-1", device_id="x", watts=(None,) * 3),))
    out = glmfleet("telemetry", "--device", "dev-1", "--home", served.path)[1]
    assert coordinator.asked == [(600.0, "dev-1")]
    assert out.splitlines()[0] == "dev-1, modelled"
    assert not any(line.startswith("W ") for line in out.splitlines())  # what nobody measured has no line


def test_as_json_and_as_csv_nothing_is_lost(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    for wish in (["--json"], ["--format", "json"]):
        told = json.loads(glmfleet("telemetry", "--history", *wish, "--home", served.path)[1])
        assert told["times"] == list(PAST.times)
        assert told["series"][0]["watts"] == [10.5, None, 12.0]
    rows = list(csv.DictReader(io.StringIO(glmfleet("telemetry", "--history", "--format", "csv", "--home", served.path)[1])))
    assert [(row["time"], row["source"], row["watts"]) for row in rows] == [
        ("1005.0", "modelled", "10.5"),
        ("1010.0", "modelled", ""),
        ("1015.0", "modelled", "12.0"),
    ]
    assert len(history_rows(PAST)) == 3
    rows = list(csv.DictReader(io.StringIO(glmfleet("telemetry", "--format", "csv", "--home", served.path)[1])))
    assert [(row["key"], row["busy_joules"]) for row in rows] == [(ROW.key, "1.5")]


def test_nothing_is_said_to_be_nothing(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.past = History(5.0, (5.0,), ())
    assert glmfleet("telemetry", "--history", "--home", served.path)[1:] == ("", "no device was heard of in that time\n")
    coordinator.rows = []
    assert glmfleet("telemetry", "--format", "csv", "--home", served.path)[1:] == ("", "")


def test_every_series_of_figures_is_shown() -> None:
    lists = {name for name, value in vars(PAST.series[0]).items() if isinstance(value, tuple)}
    assert {name for _, name, _ in FIGURES} == lists - {"devices"}


@pytest.mark.parametrize("count", [1, 9, 10, 11, 499])
def test_a_line_is_as_wide_as_there_is_room(count: int) -> None:
    line = spark([float(number) for number in range(count)], 10)
    assert len(line) == min(count, 10)
    assert list(line) == sorted(line)
    assert set(line) <= set(BLOCKS)
