"""Percentiles of requests: the same out of requests and out of sketches of them, at every age; nothing twice, nothing of what failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from fleet.store.database import Store
from fleet.store.tables import request_sketches
from fleet.telemetry.distributions import FIGURES
from fleet.telemetry.records import KEEP_SECONDS, TelemetryRecords
from fleet.telemetry.views import DeviceCost, FinishedRequest, Percentiles, PercentileSeries, Source

NOW = 1_000_000_000.0
HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "state.sqlite") as opened:
        yield opened


@pytest.fixture
def telemetry(store: Store) -> TelemetryRecords:
    return TelemetryRecords(store)


def cost(joules: float | None, source: Source = "measured") -> DeviceCost:
    return DeviceCost(f"d-{source}-{joules}", "d", "p", False, 1.0, None, joules, source, None)


def ended(seconds: float, deployment: str = "prod", *costs: DeviceCost) -> FinishedRequest:
    return FinishedRequest(
        model="m",
        deployment=deployment,
        finish_reason="stop",
        prompt_tokens=5,
        completion_tokens=10,
        ttft_seconds=seconds / 2,
        tpot_seconds=seconds / 10,
        modelled_ttft_seconds=None,
        modelled_tpot_seconds=None,
        total_seconds=seconds,
        queue_seconds=seconds / 4,
        devices=costs,
    )


def of(found: Percentiles, figure: str, key: str = "prod", source: Source = "measured") -> PercentileSeries:
    (series,) = [one for one in found.series if (one.key, one.figure, one.source) == (key, figure, source)]
    return series


def test_each_figure_is_that_of_its_requests(telemetry: TelemetryRecords) -> None:
    for number in range(1, 101):
        telemetry.record(f"r{number}", NOW - number, ended(float(number), "prod", cost(number * 10.0)))
    found = telemetry.percentiles(600, NOW, "deployment", (50.0, 99.0))
    assert found.percentiles == (50.0, 99.0)
    assert {one.figure for one in found.series} == set(FIGURES)
    assert of(found, "total_seconds").whole[1] == pytest.approx(99.0)
    assert of(found, "ttft_seconds").whole[1] == pytest.approx(49.5)
    assert of(found, "tpot_seconds").whole[1] == pytest.approx(9.9)
    assert of(found, "queue_seconds").whole[1] == pytest.approx(24.75)
    assert of(found, "joules_per_token").whole[1] == pytest.approx(99.0)
    assert of(found, "total_seconds").whole[0] == pytest.approx(50.0, abs=3)
    assert of(found, "total_seconds").requests == 100


def test_intervals_are_apart_and_those_without_a_request_have_none(telemetry: TelemetryRecords) -> None:
    telemetry.record("a", NOW - 3, ended(1.0))
    telemetry.record("b", NOW - 23, ended(2.0))
    found = telemetry.percentiles(30, NOW, "deployment", (50,))
    series = of(found, "total_seconds")
    known = {at: value for at, value in zip(found.times, series.values[0], strict=True) if value is not None}
    assert known == {NOW: 1.0, NOW - 20: 2.0}
    assert sum(series.requests_each) == series.requests == 2
    assert len(found.times) == len(series.values[0]) == len(series.requests_each)


def test_sources_are_apart_and_what_nobody_counted_is_not_zero(telemetry: TelemetryRecords) -> None:
    telemetry.record("a", NOW - 1, ended(1.0, "prod", cost(20.0), cost(30.0), cost(5.0, "modelled"), cost(None, "unmetered")))
    telemetry.record("b", NOW - 1, replace(ended(1.0, "bare"), modelled_ttft_seconds=0.25, queue_seconds=None, tpot_seconds=None))
    found = telemetry.percentiles(60, NOW, "deployment", (50,))
    assert of(found, "joules_per_token").whole == (5.0,)
    assert of(found, "joules_per_token", source="modelled").whole == (0.5,)
    assert of(found, "ttft_seconds", "bare", "modelled").whole == (0.25,)
    figures = {(one.figure, one.source) for one in found.series if one.key == "bare"}
    assert figures == {("ttft_seconds", "measured"), ("ttft_seconds", "modelled"), ("total_seconds", "measured")}
    assert of(telemetry.percentiles(60, NOW, "model", (50,)), "total_seconds", "m").requests == 2


def test_what_failed_or_gave_no_token_has_no_times(telemetry: TelemetryRecords) -> None:
    telemetry.record("a", NOW - 1, replace(ended(9.0), finish_reason="error"))
    telemetry.record("b", NOW - 1, replace(ended(1.0), finish_reason="cancelled", completion_tokens=0))
    found = telemetry.percentiles(60, NOW, "deployment", (50,))
    assert {one.figure for one in found.series} == {"queue_seconds", "total_seconds"}
    assert of(found, "total_seconds").whole == (1.0,)


def test_the_store_tells_the_same_before_and_after_it_is_thinned(telemetry: TelemetryRecords, store: Store) -> None:
    """Over all three ages, one after the other, however often it is thinned; and what is older than all is gone."""
    moments = [NOW - age for age in (5, 1800, HOUR + 300, 6 * HOUR, 6 * HOUR + 20, DAY + 2 * HOUR, 3 * DAY, 3 * DAY + 60)]
    for number, at in enumerate(moments):
        telemetry.record(f"r{number}", at, ended(float(number + 1), "prod", cost(10.0)))
    before = telemetry.percentiles(7 * DAY, NOW, "deployment", (0, 50, 100))
    for _ in range(2):
        telemetry.thin(NOW)
        assert telemetry.percentiles(7 * DAY, NOW, "deployment", (0, 50, 100)) == before
    assert windows(store) == {60.0: 2, 900.0: 2}
    telemetry.thin(NOW + DAY)
    assert windows(store) == {60.0: 1, 900.0: 5}
    later = telemetry.percentiles(8 * DAY, NOW + DAY, "deployment", (0, 100))
    assert of(later, "total_seconds").requests == len(moments)
    assert of(later, "total_seconds").whole == (1.0, float(len(moments)))
    telemetry.thin(NOW + KEEP_SECONDS + DAY)
    assert windows(store) == {}


def test_failed_requests_alone_do_not_keep_it_busy(telemetry: TelemetryRecords, store: Store) -> None:
    telemetry.record("a", NOW - 2 * HOUR, replace(ended(1.0), finish_reason="error"))
    telemetry.thin(NOW)
    assert windows(store) == {}


def windows(store: Store) -> dict[float, int]:
    """How many moments have sketches, by the windows' length."""
    table = request_sketches.c
    with store.reading() as connection:
        rows = connection.execute(select(table.window_seconds, func.count(table.begins_at.distinct())).group_by(table.window_seconds))
        return {row[0]: row[1] for row in rows}
