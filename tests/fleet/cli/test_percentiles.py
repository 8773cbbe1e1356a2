"""Percentiles on a terminal and for programs, and any table as a Parquet file."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from arro3.io import read_parquet

from fleet.cli.parquet import parquet
from fleet.cli.percentiles import TITLES
from fleet.home import Home
from fleet.telemetry.distributions import FIGURES
from fleet.telemetry.views import Percentiles
from protos.errors import InvalidInput
from tests.support.command import Command
from tests.support.fake_coordinator import PAST, FakeCoordinator


def test_a_period_is_a_table(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    code, out, _ = glmfleet("telemetry", "--percentile", "50,99.5", "--since", "1h", "--home", served.path)
    assert (code, coordinator.asked) == (0, [(3600.0, "deployment", (50.0, 99.5))])
    head, first, second = out.splitlines()
    assert head.split() == ["deployment", "figure", "requests", "p50", "p99.5", "source"]
    assert first.split() == ["tiny", "TTFT", "s", "12", "0.125", "0.500", "measured"]
    assert second.split() == ["tiny", "J/token", "12", "0.250", "0.750", "modelled"]


def test_over_the_time_each_percentile_is_a_line(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    out = glmfleet("telemetry", "--percentile", "p50,p99.5", "--by", "model", "--history", "--home", served.path)[1]
    assert coordinator.asked == [(600.0, "model", (50.0, 99.5))]
    lines = out.splitlines()
    assert lines[:2] == ["tiny, 12 requests", "TTFT s, measured"]
    assert lines[2].split() == ["p50", lines[2].split()[1], "0.125", "0.125", "0.125"]
    assert all(len(line) <= 80 for line in lines)


def test_for_programs_nothing_is_lost(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    asking = ("telemetry", "--percentile", "50,99.5", "--home", served.path)
    assert json.loads(glmfleet(*asking, "--json")[1])["series"][0]["values"] == [[None, 0.125], [None, 0.5]]
    rows = list(csv.DictReader(io.StringIO(glmfleet(*asking, "--format", "csv")[1])))
    assert [(row["figure"], row["percentile"], row["value"]) for row in rows][:2] == [
        ("ttft_seconds", "50.0", "0.125"),
        ("ttft_seconds", "99.5", "0.5"),
    ]
    rows = list(csv.DictReader(io.StringIO(glmfleet(*asking, "--history", "--format", "csv")[1])))
    assert [(row["time"], row["requests"], row["value"]) for row in rows][:2] == [("1300.0", "0", ""), ("1600.0", "12", "0.125")]


@pytest.mark.parametrize("wrong", [["--by", "device"], ["--by", "request"], ["--device", "dev-1"]])
def test_of_a_device_or_a_request_there_is_none(glmfleet: Command, served: Home, wrong: list[str]) -> None:
    code, _, err = glmfleet("telemetry", "--percentile", "50", *wrong, "--home", served.path)
    assert (code, err.splitlines()[0]) == (
        2,
        "error: percentiles are of the requests of a model or deployment: --by model or deployment",
    )


@pytest.mark.parametrize("text", ["fast", "", "101", "-1", "50;90"])
def test_what_is_no_percentile_is_refused(glmfleet: Command, served: Home, text: str) -> None:
    code, _, err = glmfleet("telemetry", f"--percentile={text}", "--home", served.path)
    assert (code, err.splitlines()[0]) == (2, f"error: not percentiles: {text!r}; write for example 50,90,99")


def test_no_request_is_said_to_be_none(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.distributed = Percentiles(5.0, (5.0,), (50.0,), ())
    assert glmfleet("telemetry", "--percentile", "50", "--home", served.path)[1:] == ("", "no request ended in that time\n")


def test_every_figure_has_a_title() -> None:
    assert set(TITLES) == set(FIGURES)


def columns(file: bytes) -> dict[str, list[object]]:
    table = read_parquet(io.BytesIO(file)).read_all()
    return {name: list(table.column(name).to_pylist()) for name in table.column_names}


def test_a_parquet_file_has_every_value_with_its_type() -> None:
    rows = [
        {"a": 1, "b": 0.5, "c": None, "d": True, "e": "\u00fc", "f": 2},
        {"a": None, "b": None, "c": None, "d": None, "e": "", "f": 2.5},
    ]
    assert columns(parquet(rows)) == {
        "a": [1, None],
        "b": [0.5, None],
        "c": [None, None],
        "d": [True, None],
        "e": ["\u00fc", ""],
        "f": [2.0, 2.5],
    }
    with pytest.raises(InvalidInput, match="nothing in that time"):
        parquet([])


def test_the_command_writes_one(glmfleet: Command, served: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+b") as file:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, write_through=True))
        glmfleet("telemetry", "--history", "--format", "parquet", "--home", served.path)
        file.seek(0)
        found = columns(file.read())
    assert found["time"] == list(PAST.times)
    assert found["watts"] == list(PAST.series[0].watts)


def test_without_its_library_one_line_says_what_to_install(glmfleet: Command, served: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fleet.cli.parquet")
    monkeypatch.setitem(sys.modules, "arro3.core", None)
    monkeypatch.setitem(sys.modules, "arro3", None)
    code, out, err = glmfleet("telemetry", "--format", "parquet", "--home", served.path)
    assert (code, out) == (1, "")
    assert err.splitlines()[0].startswith("error: this command needs arro3")
    assert "glmfleet[coordinator,device,text,sim,parquet]" in err
