"""Rates of intervals from counters at their ends: restarts, gaps, rings whose stages count the same tokens, modelled time."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.store.database import Store
from fleet.telemetry.history import MOST_POINTS, MOST_ROWS, Slice, Stand, change, history, moments, step_seconds
from fleet.telemetry.records import Received, Registered, TelemetryRecords
from fleet.telemetry.views import History, HistorySeries, Source
from protos.v1 import telemetry_pb2 as pb

NOW = 1_000_000_000.0
HOUR = 3600.0


def stand(uptime: float, *, device: str = "d1", boot: str = "b1", source: Source = "measured", each: float = 1.0, tokens: int = 0) -> Stand:
    """Of a device that takes `each` W, half of it busy."""
    joules = uptime * each
    return Stand(device, boot, source, 40.0 + uptime, 100, joules / 2, uptime, joules / 2, joules / 2, uptime / 4, 0.0, tokens)


def test_rates_are_growth_over_the_device_s_own_time() -> None:
    found = change(stand(10, tokens=5), stand(14, tokens=25), 5)
    assert found is not None
    assert (found.watts, found.busy_share, found.tokens_per_second, found.joules_per_second) == (1.0, 0.25, 5.0, 0.5)


def test_a_simulated_device_lives_in_modelled_time() -> None:
    before = Stand("d", "b", "modelled", None, 0, 20.0, 10, 0.0, 0.0, 0.0, 0.0, 0)
    # In four seconds of the wall it computed for one, which is three of the accelerator's, at 10 W; else it idled at 2 W.
    after = before._replace(uptime_seconds=14, work_seconds=1.0, modelled_work_seconds=3.0, busy_joules=30.0, work_joules=30.0)
    after = after._replace(idle_joules=26.0, answer_tokens=8)
    found = change(before, after, 4)
    assert found is not None
    assert (found.watts, found.busy_share, found.tokens_per_second) == (36.0 / 6, 0.5, 2.0)


def test_a_boot_within_the_interval_counts_since_then_and_one_before_it_not_at_all() -> None:
    found = change(stand(500, tokens=99), stand(4, boot="b2", tokens=8), 5)
    assert found is not None
    assert (found.watts, found.tokens_per_second) == (1.0, 2.0)
    assert change(None, stand(4), 5) is not None
    assert change(None, stand(6), 5) is None
    assert change(stand(5), stand(400, boot="b2"), 5) is None


def test_counters_that_fall_or_another_meter_tell_nothing() -> None:
    assert change(stand(10, tokens=5), stand(15, tokens=4), 5) is None
    assert change(stand(10, each=2), stand(15), 5) is None
    assert change(stand(10), stand(15, source="modelled"), 5) is None
    assert change(stand(10), stand(10), 5) is None


def test_what_is_not_metered_is_no_zero() -> None:
    before, after = (
        stand(uptime, source="unmetered", tokens=tokens)._replace(busy_joules=None, idle_joules=None, work_joules=None)
        for uptime, tokens in ((10, 0), (15, 5))
    )
    found = change(before, after, 5)
    assert found is not None
    assert (found.watts, found.joules_per_second, found.tokens_per_second) == (None, None, 1.0)


def slices(*at: dict[str, Stand], rows: dict[str, dict[str, int]] | None = None) -> list[Slice]:
    return [Slice(stands, rows or {}) for stands in at]


def only(found: History) -> HistorySeries:
    (series,) = found.series
    return series


def test_tokens_of_a_ring_count_once_and_joules_of_all_its_stages() -> None:
    names = ("a", "b", "c")
    before = {name: stand(10, device=name) for name in names}
    after = {name: stand(15, device=name, tokens=10) for name in names}
    series = only(history("fleet", "", [0, 5], slices(before, after, rows={name: {"ring": 7} for name in names}), []))
    assert (series.devices, series.watts) == ((3,), (3.0,))
    assert series.tokens_per_second == pytest.approx((2.0,))
    assert series.joules_per_token == pytest.approx((3 * 2.5 / 10,))
    assert (series.temperature_celsius, series.memory_bytes) == ((55.0,), (300,))


def test_a_device_of_two_rings_shares_its_tokens_by_its_rows() -> None:
    """a and b are one ring, b alone is another: 4 and 16 tokens in five seconds."""
    before, after = (
        {name: stand(up, device=name, tokens=count) for name, count in of.items()}
        for up, of in ((10, {"a": 0, "b": 0}), (15, {"a": 4, "b": 20}))
    )
    first, last = Slice(before, {"a": {"x": 0}, "b": {"x": 0, "y": 0}}), Slice(after, {"a": {"x": 3}, "b": {"x": 3, "y": 12}})
    assert only(history("fleet", "", [0, 5], [first, last], [])).tokens_per_second == pytest.approx((4.0,))


def test_sources_and_hollow_devices_are_apart_and_silence_is_a_gap() -> None:
    first = {"a": stand(10, device="a"), "b": stand(10, device="b", source="modelled"), "h": stand(10, device="h", source="modelled")}
    last = {"a": stand(20, device="a"), "b": stand(20, device="b", source="modelled"), "h": stand(20, device="h", source="modelled")}
    found = history("fleet", "", [0, 5, 10, 15, 20], slices(first, {"a": stand(15, device="a")}, {}, {}, last), ["h"])
    assert [(one.source, one.hollow, one.devices) for one in found.series] == [("measured", False, (1, 0, 0, 0))]
    found = history("fleet", "", [0, 10, 20], slices(first, last, {}), ["h"])
    assert [(one.source, one.hollow, one.watts) for one in found.series] == [
        ("measured", False, (1.0, None)),
        ("modelled", False, (1.0, None)),
        ("modelled", True, (1.0, None)),
    ]


@pytest.mark.parametrize("devices", [1, 30, 1000, 20_000])
@pytest.mark.parametrize(("since", "spacing"), [(1, 0), (60, 0), (HOUR, 0), (HOUR + 1, 60), (24 * HOUR, 60), (30 * 24 * HOUR, 900)])
def test_a_query_is_bounded_and_fits_what_is_kept(since: float, spacing: float, devices: int) -> None:
    step = step_seconds(since, spacing, devices)
    assert since / step <= MOST_POINTS
    assert step >= spacing
    assert not spacing or step % spacing == 0
    assert since / step * devices <= MOST_ROWS
    at = moments(NOW - since, NOW, step)
    assert at[0] <= NOW - since
    assert NOW - 2 <= at[-1] <= NOW
    assert at == sorted(set(at))


def a_sample(index: int, at: float, device: str = "d1", boot: str = "b1", ring: str = "ring") -> Received:
    """Once a second 2 J, half of them busy, and a token, at which two stages work."""
    sample = pb.TelemetrySample(device_id=device, boot_id=boot, index=index, uptime_seconds=index)
    sample.energy.source, sample.energy.busy_joules, sample.energy.idle_joules = pb.ENERGY_SOURCE_MEASURED, index, index
    sample.work.CopyFrom(pb.WorkCounter(answer_tokens=index, decode_tokens=index, busy_joules=index, busy_seconds=index / 2))
    sample.pipelines.add(pipeline_id=ring, manifest_digest="x", decode_tokens=index)
    sample.gauges.memory_used_bytes = 7
    return Received(sample, at, Registered(f"name of {device}"))


@pytest.fixture
def telemetry(tmp_path: Path) -> TelemetryRecords:
    return TelemetryRecords(Store(tmp_path / "state.sqlite"))


def test_the_fleet_s_history_and_a_device_s_come_from_the_store(telemetry: TelemetryRecords) -> None:
    telemetry.ingest(a_sample(index, NOW - 100 + index, device) for device in ("d1", "d2") for index in range(1, 100))
    fleet = telemetry.history(60, NOW)
    assert (fleet.step_seconds, len(fleet.times), fleet.times[-1]) == (5.0, 12, NOW)
    series = only(fleet)
    assert (series.key, series.source, set(series.devices)) == ("fleet", "measured", {2})
    assert set(series.watts) == {4.0}
    assert set(series.tokens_per_second) == {1.0}
    assert set(series.joules_per_token) == {2.0}
    alone = only(telemetry.history(60, NOW, "one", "d2"))
    assert (alone.key, alone.device_id) == ("one", "d2")
    assert (set(alone.watts), set(alone.tokens_per_second), set(alone.memory_bytes)) == ({2.0}, {1.0}, {7})


def test_a_device_that_was_off_leaves_a_gap_and_no_negative_rate(telemetry: TelemetryRecords) -> None:
    telemetry.ingest(a_sample(index, NOW - 100 + index) for index in range(1, 61))
    telemetry.ingest(a_sample(index, NOW - 20 + index, boot="b2") for index in range(20))
    for series in (only(telemetry.history(60, NOW)), only(telemetry.history(60, NOW, "one", "d1"))):
        assert series.watts == (2.0,) * 4 + (None,) * 4 + (2.0,) * 4


def test_a_moment_at_which_one_device_of_many_was_not_heard_is_no_dip(telemetry: TelemetryRecords) -> None:
    telemetry.ingest(a_sample(index, NOW - 100 + index) for index in range(1, 100))
    telemetry.ingest(a_sample(index, NOW - 100 + index, "d2") for index in range(1, 100) if not 58 <= index <= 62)
    series = only(telemetry.history(60, NOW))
    assert series.devices == (2,) * 12
    assert series.watts == pytest.approx((4.0,) * 12)
    assert series.tokens_per_second == pytest.approx((1.0,) * 12)


def test_thinned_samples_tell_the_same(telemetry: TelemetryRecords) -> None:
    telemetry.ingest(a_sample(index, NOW - 7200 + index) for index in range(1, 7200))
    before = telemetry.history(7000, NOW)
    telemetry.thin(NOW)
    after = telemetry.history(7000, NOW)
    assert before == after
    assert after.step_seconds == 60
    assert set(only(after).watts) == {2.0}


def test_a_fleet_without_a_sample_has_no_series(telemetry: TelemetryRecords) -> None:
    found = telemetry.history(60, NOW)
    assert (found.series, len(found.times)) == ((), 12)
