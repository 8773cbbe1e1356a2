from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.store.database import Store
from fleet.store.tables import pipeline_samples, samples
from fleet.telemetry.records import KEEP_SECONDS, Received, Registered, TelemetryRecords
from fleet.telemetry.views import CostRow, DeviceCost, FinishedRequest, Source
from protos.v1 import telemetry_pb2 as pb

NOW = 1_000_000_000.0
HOUR = 3600.0
LONG_AGO = NOW - 1e7


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "state.sqlite") as opened:
        yield opened


@pytest.fixture
def telemetry(store: Store) -> TelemetryRecords:
    return TelemetryRecords(store)


def a_sample(
    index: int,
    busy: float = 0.0,
    idle: float = 0.0,
    *,
    at: float,
    device: str = "d1",
    boot: str = "b1",
    uptime: float | None = None,
    source: pb.EnergySource = pb.ENERGY_SOURCE_MODELLED,
    tokens: int | None = 0,
    pipelines: dict[str, tuple[float, float]] | None = None,
) -> Received:
    """`uptime`: unless given, of a device that booted at LONG_AGO. `tokens` None: of an agent that does not count its work."""
    uptime = at - LONG_AGO if uptime is None else uptime
    sample = pb.TelemetrySample(device_id=device, boot_id=boot, index=index, uptime_seconds=uptime)
    sample.energy.source, sample.energy.busy_joules, sample.energy.idle_joules = source, busy, idle
    if tokens is not None:
        work = pb.WorkCounter(prefill_tokens=2 * tokens, decode_tokens=tokens, answer_tokens=tokens, busy_joules=busy)
        work.busy_seconds, work.modelled_busy_seconds = busy / 4, busy / 2
        sample.work.CopyFrom(work)
    for name, (wall, modelled) in (pipelines or {}).items():
        sample.pipelines.add(pipeline_id=name, busy_seconds=wall, modelled_busy_seconds=modelled)
    return Received(sample, at, Registered(f"name of {device}"))


def a_cost(device: str = "d1", joules: float | None = 2.0, source: Source = "modelled", busy: float = 1.0) -> DeviceCost:
    return DeviceCost(device, f"name of {device}", "p", True, busy, busy * 2 if source == "modelled" else None, joules, source, None)


def a_result(*costs: DeviceCost, model: str = "m", deployment: str = "dep", tokens: int = 10) -> FinishedRequest:
    return FinishedRequest(
        model=model,
        deployment=deployment,
        finish_reason="stop",
        prompt_tokens=5,
        completion_tokens=tokens,
        ttft_seconds=0.1,
        tpot_seconds=0.01,
        modelled_ttft_seconds=0.2,
        modelled_tpot_seconds=0.02,
        total_seconds=1.0,
        devices=costs,
    )


def only(rows: list[CostRow]) -> CostRow:
    (row,) = rows
    return row


def test_joules_of_a_period_are_what_the_counters_grew_by(telemetry: TelemetryRecords) -> None:
    telemetry.ingest(a_sample(i, busy=100 + i, idle=10 * i, at=NOW - 100 + i) for i in range(100))
    row = only(telemetry.costs(50, "device", NOW))
    # From the sample at NOW - 50 (index 50) to the last (index 99).
    assert (row.key, row.device_id, row.source) == ("name of d1", "d1", "modelled")
    assert (row.busy_joules, row.idle_joules) == (49.0, 490.0)


def test_lost_samples_lose_no_joules(telemetry: TelemetryRecords) -> None:
    telemetry.ingest([a_sample(1, busy=100, at=NOW - 50), a_sample(40, busy=170, at=NOW - 1)])
    assert only(telemetry.costs(60, "device", NOW)).busy_joules == 70.0


def test_a_boot_within_the_period_counts_from_zero(telemetry: TelemetryRecords) -> None:
    telemetry.ingest(
        [
            a_sample(7, busy=100, at=NOW - 62),
            a_sample(8, busy=130, at=NOW - 50),
            a_sample(0, busy=5, at=NOW - 30, boot="b2", uptime=4),
            a_sample(1, busy=9, at=NOW - 20, boot="b2", uptime=14),
        ]
    )
    row = only(telemetry.costs(60, "device", NOW))
    assert row.busy_joules == 30.0 + 9.0
    # From its last sample to its next boot, and since its last sample of that, nobody knows what it did.
    assert (row.covered_seconds, row.lost_seconds, row.partial) == (12 + 14.0, 16 + 20.0, True)


def test_what_a_device_did_before_it_was_first_heard_of_is_not_in_the_period(telemetry: TelemetryRecords) -> None:
    telemetry.ingest([a_sample(500, busy=100, at=NOW - 50, uptime=5000), a_sample(501, busy=101, at=NOW, uptime=5050)])
    row = only(telemetry.costs(60, "device", NOW))
    assert (row.busy_joules, row.covered_seconds, row.lost_seconds, row.partial) == (1.0, 50.0, 10.0, True)
    row = only(telemetry.costs(6000, "device", NOW))
    assert (row.busy_joules, row.covered_seconds, row.lost_seconds, row.partial) == (101.0, 5050.0, 0.0, False)


def test_a_period_without_a_sample_is_of_no_cost_and_lost(telemetry: TelemetryRecords) -> None:
    telemetry.ingest([a_sample(0, busy=100, at=NOW - 500)])
    row = only(telemetry.costs(60, "device", NOW))
    assert (row.busy_joules, row.completion_tokens, row.covered_seconds, row.lost_seconds, row.partial) == (0.0, 0, 0.0, 60.0, True)
    assert telemetry.costs(60, "model", NOW) == []


def test_unmetered_is_none_and_not_zero(telemetry: TelemetryRecords) -> None:
    for i in range(5):
        unmetered = a_sample(i, at=NOW - 10 + i, source=pb.ENERGY_SOURCE_UNMETERED, tokens=10 * i)
        unmetered.sample.work.busy_seconds = i
        telemetry.ingest([unmetered])
    telemetry.record("r", NOW - 1, a_result(a_cost(joules=None, source="unmetered")))
    row = only(telemetry.costs(60, "device", NOW))
    assert (row.busy_joules, row.idle_joules, row.joules_per_token, row.modelled_busy_seconds) == (None, None, None, None)
    assert (row.busy_seconds, row.completion_tokens, row.source) == (4.0, 40, "unmetered")
    row = only(telemetry.costs(60, "model", NOW))
    assert (row.busy_joules, row.joules_per_token, row.source) == (None, None, "unmetered")


def test_sources_are_never_added(telemetry: TelemetryRecords) -> None:
    measured = pb.ENERGY_SOURCE_MEASURED
    telemetry.ingest(
        [
            a_sample(0, busy=0, at=NOW - 30, uptime=1),
            a_sample(1, busy=10, at=NOW - 20, uptime=11),
            a_sample(0, busy=3, at=NOW - 10, uptime=9, source=measured, boot="b2"),
        ]
    )
    assert {row.source: row.busy_joules for row in telemetry.costs(60, "device", NOW)} == {"modelled": 10.0, "measured": 3.0}
    # One that changes what it meters without a new boot: what it said before the change is not taken for the same.
    telemetry.ingest([a_sample(1, busy=90, at=NOW - 5, uptime=14, boot="b2"), a_sample(2, busy=91, at=NOW, uptime=19, boot="b2")])
    rows = telemetry.costs(60, "device", NOW)
    assert all(row.partial and row.source == "modelled" for row in rows)
    telemetry.record("r", NOW, a_result(a_cost("d1", 2.0), a_cost("d2", 5.0, "measured"), a_cost("d3", None, "unmetered")))
    for by in ("model", "deployment", "request"):
        rows = telemetry.costs(60, by, NOW)
        assert {row.source: row.busy_joules for row in rows} == {"modelled": 2.0, "measured": 5.0, "unmetered": None}
        assert {row.requests for row in rows} == {1}


def test_an_agent_that_does_not_count_its_work_has_joules_and_seconds_but_no_tokens(telemetry: TelemetryRecords) -> None:
    """As the release before sends, and as older stores hold."""
    telemetry.ingest(
        [
            a_sample(0, busy=1.0, at=NOW - 60, tokens=None, pipelines={"old": (100.0, 200.0), "other": (1.0, 2.0)}),
            a_sample(1, busy=9.0, at=NOW, tokens=None, pipelines={"old": (103.0, 206.0), "other": (2.0, 4.0)}),
        ]
    )
    row = only(telemetry.costs(60, "device", NOW))
    assert (row.busy_joules, row.busy_seconds, row.modelled_busy_seconds) == (8.0, 4.0, 8.0)
    assert (row.prompt_tokens, row.completion_tokens, row.joules_per_token, row.partial) == (None, None, None, True)


def test_a_boot_that_an_older_coordinator_stored_the_beginning_of(telemetry: TelemetryRecords) -> None:
    telemetry.ingest([a_sample(0, busy=5.0, at=NOW - 90, tokens=None), a_sample(1, busy=7.0, at=NOW - 30, tokens=None)])
    telemetry.ingest([a_sample(2, busy=10.0, at=NOW - 20, tokens=100), a_sample(3, busy=16.0, at=NOW, tokens=103)])
    row = only(telemetry.costs(60, "device", NOW))
    assert (row.busy_joules, row.completion_tokens, row.joules_per_token) == (6.0, 3, 2.0)
    assert (row.covered_seconds, row.lost_seconds, row.partial) == (20.0, 40.0, True)


def test_requests_by_model_deployment_and_request(telemetry: TelemetryRecords) -> None:
    telemetry.record("r1", NOW - 30, a_result(a_cost("d1", 2.0, busy=1.0), a_cost("d2", 3.0, busy=0.5)))
    telemetry.record("r2", NOW - 20, a_result(a_cost("d1", 4.0), tokens=30))
    telemetry.record("r3", NOW - 10, a_result(a_cost("d1", 1.0), model="other", deployment="dep2", tokens=0))
    telemetry.record("old", NOW - 999, a_result(a_cost("d1", 100.0)))
    first, second = telemetry.costs(60, "model", NOW)
    assert first == CostRow("m", "", 2, 10, 40, 2.5, 5.0, 9.0, None, 9.0 / 40, "modelled")
    assert second == CostRow("other", "", 1, 5, 0, 1.0, 2.0, 1.0, None, None, "modelled")
    assert [row.key for row in telemetry.costs(60, "deployment", NOW)] == ["dep", "dep2"]
    assert [(row.key, row.busy_joules) for row in telemetry.costs(60, "request", NOW)] == [("r1", 5.0), ("r2", 4.0), ("r3", 1.0)]


def test_a_device_row_s_joules_and_tokens_are_of_one_counter(telemetry: TelemetryRecords) -> None:
    """What was recorded of requests is another ledger: it only says how many there were."""
    telemetry.ingest([a_sample(0, busy=0, at=NOW - 60, tokens=7), a_sample(1, busy=8, at=NOW, tokens=27)])
    telemetry.record("r1", NOW - 30, a_result(a_cost("d1"), a_cost("d2")))
    telemetry.record("r2", NOW - 20, a_result(a_cost("d1"), tokens=30))
    one, two = telemetry.costs(60, "device", NOW)
    assert (one.requests, one.prompt_tokens, one.completion_tokens, one.joules_per_token) == (2, 40, 20, 8 / 20)
    assert not one.partial
    # No sample of d2 came: its name is known from the request, its counters are not.
    assert (two.key, two.requests, two.busy_joules, two.completion_tokens, two.joules_per_token) == ("name of d2", 1, None, None, None)
    assert (two.covered_seconds, two.lost_seconds, two.partial) == (0.0, 60.0, True)


def test_a_request_that_was_cancelled_in_the_queue_is_no_work_of_anybody(telemetry: TelemetryRecords) -> None:
    waited = replace(a_result(tokens=0), finish_reason="cancelled")
    telemetry.record("waited", NOW, waited)
    row = only(telemetry.costs(60, "request", NOW))
    assert (row.requests, row.prompt_tokens, row.busy_seconds, row.busy_joules, row.source) == (1, 0, 0.0, 0.0, "none")
    telemetry.record("ran", NOW, a_result(a_cost("d1", 4.0)))
    row = only(telemetry.costs(60, "model", NOW))
    assert (row.requests, row.prompt_tokens, row.busy_joules, row.joules_per_token, row.source) == (2, 5, 4.0, 0.4, "modelled")
    assert not row.partial
    assert [(row.key, row.source) for row in telemetry.costs(60, "request", NOW)] == [("ran", "modelled"), ("waited", "none")]


def test_a_share_without_a_run_that_an_older_version_stored_as_unmetered_is_no_work(telemetry: TelemetryRecords) -> None:
    telemetry.ingest([a_sample(0, at=NOW - 60), a_sample(1, at=NOW)])
    telemetry.record("r", NOW, replace(a_result(a_cost(joules=None, source="unmetered", busy=0.0)), finish_reason="cancelled"))
    assert [(row.requests, row.source) for row in telemetry.costs(60, "device", NOW)] == [(0, "modelled")]
    assert [(row.requests, row.source) for row in telemetry.costs(60, "deployment", NOW)] == [(1, "none")]


def test_a_failed_request_that_no_device_accounted_for_makes_its_row_partial(telemetry: TelemetryRecords) -> None:
    telemetry.record("r", NOW, replace(a_result(), finish_reason="error"))
    row = only(telemetry.costs(60, "request", NOW))
    assert (row.requests, row.busy_seconds, row.busy_joules, row.source, row.partial) == (1, 0.0, None, "unmetered", True)
    telemetry.record("ran", NOW, a_result(a_cost("d1", 4.0)))
    row = only(telemetry.costs(60, "model", NOW))
    assert (row.requests, row.completion_tokens, row.joules_per_token, row.source, row.partial) == (2, 10, 0.4, "modelled", True)


def test_requests_that_ended_before_the_clock_was_set_back_still_count(telemetry: TelemetryRecords) -> None:
    telemetry.record("r", NOW + HOUR, a_result(a_cost("d1", 4.0)))
    assert [row.busy_joules for row in telemetry.costs(60, "model", NOW)] == [4.0]


def test_the_same_sample_or_request_again_changes_nothing(telemetry: TelemetryRecords) -> None:
    batch = [a_sample(0, busy=1, at=NOW - 20, pipelines={"p": (1, 1)}), a_sample(1, busy=4, at=NOW - 10, pipelines={"p": (2, 2)})]
    for _ in range(2):
        telemetry.ingest(batch)
        telemetry.record("r", NOW, a_result(a_cost()))
    telemetry.ingest([])
    assert only(telemetry.costs(60, "device", NOW)).busy_joules == 3.0
    assert only(telemetry.costs(60, "device", NOW)).requests == 1


def test_a_renamed_device_goes_by_its_new_name(telemetry: TelemetryRecords) -> None:
    telemetry.ingest([a_sample(0, at=NOW - 20)])
    telemetry.ingest([replace(a_sample(1, at=NOW - 10), device=Registered("renamed"))])
    assert only(telemetry.costs(60, "device", NOW)).key == "renamed"


def test_thinning_keeps_every_sum_and_bounds_the_rows(store: Store, telemetry: TelemetryRecords) -> None:
    telemetry.ingest(
        a_sample(i, busy=i, at=NOW - 2 * HOUR + i, uptime=1 + i, pipelines={"gone" if i < 100 else "p": (i, i)}) for i in range(7200)
    )
    before = telemetry.costs(3 * HOUR, "device", NOW), telemetry.costs(240, "device", NOW)
    telemetry.thin(NOW)
    assert (telemetry.costs(3 * HOUR, "device", NOW), telemetry.costs(240, "device", NOW)) == before
    # A period that is cut where samples are ten seconds apart is known to within ten seconds.
    assert only(telemetry.costs(HOUR / 2, "device", NOW)).busy_joules == pytest.approx(1800, abs=10)
    with store.reading() as connection:
        kept, counters = (len(connection.execute(table.select()).all()) for table in (samples, pipeline_samples))
    of_minutes, of_tens, of_seconds = 60, (3600 - 300) // 10, 300
    assert of_minutes + of_tens + of_seconds <= kept <= of_minutes + of_tens + of_seconds + 4
    assert counters == kept
    telemetry.thin(NOW + 25 * HOUR)
    assert only(telemetry.costs(28 * HOUR, "device", NOW + 25 * HOUR)).busy_joules == 7199
    telemetry.thin(NOW + KEEP_SECONDS + HOUR)
    assert telemetry.costs(2 * KEEP_SECONDS, "device", NOW + KEEP_SECONDS + HOUR) == []


def test_old_requests_go_with_their_costs(telemetry: TelemetryRecords) -> None:
    telemetry.record("old", NOW - KEEP_SECONDS - 1, a_result(a_cost()))
    telemetry.record("new", NOW, a_result(a_cost()))
    telemetry.thin(NOW)
    assert [row.key for row in telemetry.costs(2 * KEEP_SECONDS, "request", NOW)] == ["new"]
    assert only(telemetry.costs(2 * KEEP_SECONDS, "device", NOW)).requests == 1


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), st.booleans(), st.integers(1, 4000)), min_size=1, max_size=30),
    st.booleans(),
)
def test_every_joule_of_a_watched_boot_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool, int]], thinned: bool
) -> None:
    """Any loss, any reboot, any pause: the sum over everything is what the last sample of each boot said."""
    boots: dict[str, tuple[float, float, int]] = {}
    number, at, told = 0, NOW, {}
    batch = []
    for lost, grown, reboot, pause in steps:
        number, at = number + reboot, at + pause
        boot = f"b{number}"
        joules, started, index = boots.get(boot, (0.0, at - 0.5, -1))
        boots[boot] = joules + grown, started, index + 1 + lost
        told[boot] = joules + grown
        batch.append(a_sample(boots[boot][2], busy=told[boot], at=at, boot=boot, uptime=at - started))
    with Store(tmp_path_factory.mktemp("store") / "state.sqlite") as store:
        telemetry = TelemetryRecords(store)
        telemetry.ingest(batch)
        if thinned:
            telemetry.thin(at)
        assert only(telemetry.costs(at - NOW + HOUR, "device", at)).busy_joules == pytest.approx(sum(told.values()))
