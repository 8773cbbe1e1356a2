"""Any faults in any order: a row's joules and tokens are the device's own over what it covers, or the row says that it is partial."""

from __future__ import annotations

import random
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from fleet.store.database import Store
from fleet.telemetry.coverage import HEARD_SECONDS
from fleet.telemetry.ingest import Ingest
from fleet.telemetry.records import Received, Registered, TelemetryRecords
from fleet.telemetry.views import CostRow, FinishedRequest
from protos.v1 import telemetry_pb2 as pb

EPOCH = 1_000_000_000.0
HOUR = 3600.0


@dataclass
class Board:
    """A device at work. Its joules per token change all the time, so that no two intervals have the same ratio."""

    device: str = "d"
    now: float = 0.0  # true seconds
    boot: int = 0
    booted_at: float = 0.0
    index: int = 0
    tokens: int = 0
    joules: float = 0.0
    told: list[tuple[int, float, int, float]] = field(default_factory=list)  # of every sample: boot, uptime, tokens, joules

    def work(self, tokens: int, joules_each: float) -> None:
        self.tokens += tokens
        self.joules += tokens * joules_each

    def reboot(self) -> None:
        self.boot, self.booted_at, self.index, self.tokens, self.joules = self.boot + 1, self.now, 0, 0, 0.0

    def sample(self) -> pb.TelemetrySample:
        uptime = self.now - self.booted_at
        self.told.append((self.boot, uptime, self.tokens, self.joules))
        sample = pb.TelemetrySample(device_id=self.device, boot_id=f"b{self.boot}", index=self.index, uptime_seconds=uptime)
        sample.energy.source, sample.energy.busy_joules = pb.ENERGY_SOURCE_MODELLED, self.joules
        sample.work.CopyFrom(pb.WorkCounter(prefill_tokens=self.tokens, answer_tokens=self.tokens, busy_joules=self.joules))
        self.index += 1
        return sample

    def does_in(self, covered: float) -> tuple[int, float]:
        """Tokens and joules of this boot between its last sample and the one so many seconds before, by its own clock."""
        points = [(0.0, 0, 0.0), *((uptime, tokens, joules) for boot, uptime, tokens, joules in self.told if boot == self.boot)]
        last = points[-1]
        base = min(points, key=lambda point: abs(last[0] - covered - point[0]))
        return last[1] - base[1], last[2] - base[2]


def only(rows: list[CostRow]) -> CostRow:
    (row,) = rows
    return row


def check(board: Board, row: CostRow, since: float) -> None:
    assert row.completion_tokens is not None
    assert row.covered_seconds is not None
    assert row.busy_joules is not None
    if row.completion_tokens:
        assert row.joules_per_token == row.busy_joules / row.completion_tokens
    if row.partial:
        return
    tokens, joules = board.does_in(row.covered_seconds)
    assert (row.completion_tokens, row.busy_joules) == (tokens, pytest.approx(joules))
    whole = min(since, board.now - board.booted_at)
    assert whole - HEARD_SECONDS <= row.covered_seconds <= whole + HEARD_SECONDS + 1


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TelemetryRecords]:
    with Store(tmp_path_factory.mktemp("store") / "state.sqlite") as store:
        yield TelemetryRecords(store)


FAULTS = st.sampled_from(
    [
        "none",
        "none",
        "samples lost",  # the coordinator is down, or its disk full, for a while
        "a long loss",
        "the store goes back",  # to an older copy: after a crash, or from a backup
        "coordinator's clock an hour on",
        "coordinator's clock an hour back",
        "the device boots",
        "the device is off for a while",
        "samples twice",
        "samples in disorder",
    ]
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(FAULTS, st.integers(1, 30)), min_size=1, max_size=12),
    st.sampled_from([10.0, 60.0, 600.0, HOUR, 10 * HOUR]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_a_row_is_of_what_it_covers_or_says_that_it_is_partial(
    telemetry: TelemetryRecords, faults: list[tuple[str, int]], since: float, thinned: bool, seed: int
) -> None:
    board, chance, step = Board(uuid.uuid4().hex), random.Random(seed), 0.0
    arrived: list[Received] = []

    def second(*, heard: bool = True) -> None:
        board.now += 1.0
        board.work(chance.randrange(4), chance.choice([0.5, 3.0, 40.0]))
        if heard:
            arrived.append(Received(board.sample(), EPOCH + board.now + step + chance.uniform(0.0, 0.4), Registered("d")))

    for fault, seconds in faults:
        begin = len(arrived)
        if fault == "coordinator's clock an hour on":
            step += HOUR
        elif fault == "coordinator's clock an hour back":
            step -= HOUR
        elif fault == "the device boots":
            board.reboot()
        elif fault == "the device is off for a while":
            board.now += 10 * seconds
            board.reboot()
        elif fault == "the store goes back":
            del arrived[max(0, begin - 2 * seconds) :]
        for _ in range(10 * seconds if fault == "a long loss" else seconds):
            second(heard=fault not in ("samples lost", "a long loss"))
        if fault == "samples twice":
            arrived += arrived[begin:]
        elif fault == "samples in disorder":
            arrived[begin:] = chance.sample(arrived[begin:], len(arrived) - begin)
    now = EPOCH + board.now + step + 0.5
    telemetry.ingest(arrived)
    if thinned:
        telemetry.thin(now)
    rows = [row for row in telemetry.costs(since, "device", now) if row.device_id == board.device]
    if arrived:
        check(board, only(rows), since)
    else:
        assert rows == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite"


@pytest.fixture
def board() -> Board:
    return Board()


def heard(board: Board, *, step: float = 0.0) -> Received:
    return Received(board.sample(), EPOCH + board.now + step, Registered("d"))


def watched(board: Board, telemetry: TelemetryRecords, seconds: int, tokens: int, joules_each: float, *, step: float = 0.0) -> None:
    for _ in range(seconds):
        board.now += 1.0
        board.work(tokens, joules_each)
        telemetry.ingest([heard(board, step=step)])


def a_request(tokens: int) -> FinishedRequest:
    return FinishedRequest(
        model="m",
        deployment="dep",
        finish_reason="stop",
        prompt_tokens=5,
        completion_tokens=tokens,
        ttft_seconds=0.1,
        tpot_seconds=0.01,
        modelled_ttft_seconds=None,
        modelled_tpot_seconds=None,
        total_seconds=1.0,
    )


def test_a_coordinator_killed_with_its_newest_records_unwritten(path: Path, board: Board) -> None:
    """Its store is put back to what it was a while ago: the device goes on, and tells the next coordinator the rest."""
    with Store(path) as store:
        telemetry = TelemetryRecords(store)
        watched(board, telemetry, 20, 2, 1.0)
        telemetry.record("r1", EPOCH + board.now, a_request(40))
    shutil.copy(path, path.with_suffix(".old"))
    with Store(path) as store:
        telemetry = TelemetryRecords(store)
        watched(board, telemetry, 20, 2, 5.0)
        telemetry.record("r2", EPOCH + board.now, a_request(40))
    shutil.move(path.with_suffix(".old"), path)
    for leftover in path.parent.glob("state.sqlite-*"):
        leftover.unlink()
    board.now += 5.0
    board.work(10, 5.0)
    with Store(path) as store:
        telemetry = TelemetryRecords(store)
        watched(board, telemetry, 1, 0, 0.0)
        row = only(telemetry.costs(600.0, "device", EPOCH + board.now))
        assert (row.requests, row.completion_tokens, row.busy_joules) == (0, 90, 40 * 1.0 + 50 * 5.0)
        assert (row.joules_per_token, row.covered_seconds, row.partial) == (290 / 90, 46.0, False)


async def test_what_a_full_disk_did_not_take_is_shown_as_lost_and_told_later(path: Path, board: Board) -> None:
    with Store(path) as store:
        telemetry = TelemetryRecords(store)
        watched(board, telemetry, 20, 2, 1.0)
        with store.reading() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
            # The same error code as the operating system's ENOSPC gives. One connection of the pool holds the limit.
            connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        ingest = Ingest(telemetry, Registered, now=lambda: EPOCH + board.now)
        await full(ingest, board)
        row = only(telemetry.costs(600.0, "device", EPOCH + board.now))
        kept = board.told[round(row.covered_seconds or 0) - 1]  # some came into the last page
        assert (row.completion_tokens, row.busy_joules) == kept[2:]
        assert row.partial
        assert row.lost_seconds == board.now - kept[1] > 100
        with store.reading() as connection:
            connection.execute(text(f"PRAGMA max_page_count = {10 * pages}"))
        await ingest.flush()  # the device may be gone: what it said last was not written, and still is known
        row = only(telemetry.costs(600.0, "device", EPOCH + board.now))
        assert (row.completion_tokens, row.busy_joules, row.partial) == (board.tokens, board.joules, False)


async def full(ingest: Ingest, board: Board) -> None:
    for _ in range(300):
        board.now += 1.0
        board.work(2, 7.0)
        ingest.add(board.sample())
        await ingest.flush()


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_coordinator_whose_clock_is_set_anew(path: Path, board: Board, step: float) -> None:
    with Store(path) as store:
        telemetry = TelemetryRecords(store)
        watched(board, telemetry, 50, 2, 1.0)
        watched(board, telemetry, 50, 3, 9.0, step=step)
        now = EPOCH + board.now + step
        row = only(telemetry.costs(20.0, "device", now))
        assert (row.completion_tokens, row.busy_joules, row.covered_seconds, row.partial) == (60, 540.0, 20.0, False)
        row = only(telemetry.costs(80.0, "device", now))
        assert (row.completion_tokens, row.busy_joules, row.partial) == (150 + 60, 1350 + 60.0, False)
        # Of a device that is silent since, nobody knows when it was heard.
        row = only(telemetry.costs(20.0, "device", now - 2 * step))
        assert row.partial


def test_a_device_that_boots_begins_anew_and_what_it_did_last_is_lost(path: Path, board: Board) -> None:
    with Store(path) as store:
        telemetry = TelemetryRecords(store)
        watched(board, telemetry, 30, 2, 1.0)
        board.now += 20.0  # unheard, it does some more and is switched off and on
        board.reboot()
        watched(board, telemetry, 30, 1, 4.0)
        row = only(telemetry.costs(600.0, "device", EPOCH + board.now))
        assert (row.completion_tokens, row.busy_joules) == (60 + 30, 60 + 120.0)
        assert (row.covered_seconds, row.lost_seconds, row.partial) == (60.0, 20.0, True)


def test_what_was_done_while_nobody_listened_is_not_of_a_period_that_begins_in_the_middle_of_it(path: Path, board: Board) -> None:
    with Store(path) as store:
        telemetry = TelemetryRecords(store)
        watched(board, telemetry, 30, 2, 1.0)
        board.now += HOUR
        board.work(10_000, 1.0)
        watched(board, telemetry, 60, 1, 4.0)
        now = EPOCH + board.now
        row = only(telemetry.costs(600.0, "device", now))
        assert (row.completion_tokens, row.covered_seconds, row.lost_seconds, row.partial) == (59, 59.0, 541.0, True)
        row = only(telemetry.costs(2 * HOUR, "device", now))
        assert (row.completion_tokens, row.lost_seconds, row.partial) == (60 + 10_000 + 60, 0.0, False)
