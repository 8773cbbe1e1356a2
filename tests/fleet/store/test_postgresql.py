"""The store on a PostgreSQL server; skipped where there is none."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest
from sqlalchemy import create_engine, insert, inspect, text

from fleet.store import schema
from fleet.store.audit_heads import AuditHeads
from fleet.store.database import Store
from fleet.store.deployments import DeploymentRecords, StoredDeployment
from fleet.store.engine import parse_url
from fleet.store.tables import alembic_version, audit_heads, metadata, request_sketches, schema_info
from fleet.telemetry.records import By, Received, Registered, TelemetryRecords
from fleet.telemetry.views import DeviceCost, FinishedRequest
from protos.errors import Conflict, InvalidInput
from protos.v1 import telemetry_pb2 as pb
from tests.support import postgresql

NOW = 1_000_000_000.0
pytestmark = pytest.mark.skipif(bool(postgresql.missing()), reason=postgresql.missing())


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is its user's alone, and the server may be another
        Path(folder).chmod(0o755)
        with postgresql.server(Path(folder) / "postgresql") as url:
            yield url


@pytest.fixture
def url(server: str) -> str:
    """An empty database."""
    engine = create_engine(parse_url(server))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return server


def test_deployments_outlive_the_process_and_lower_generations_are_refused(url: str) -> None:
    with Store(url) as store:
        DeploymentRecords(store).put_deployment("a", 3, '{"x": 1}')
        DeploymentRecords(store).put_deployment("b", 1, "{}")
        DeploymentRecords(store).remove_deployment("b", 2)
        with pytest.raises(Conflict, match="generation 3; this is 2"):
            DeploymentRecords(store).put_deployment("a", 2, "{}")
    with Store(url) as store:
        assert DeploymentRecords(store).deployments() == [StoredDeployment("a", 3, '{"x": 1}')]
        assert DeploymentRecords(store).generation("b") == 2


def test_telemetry_says_what_it_says_on_sqlite(url: str, tmp_path: Path) -> None:
    said = []
    for where in (url, tmp_path / "state.sqlite"):
        with Store(where) as store:
            telemetry = TelemetryRecords(store)
            telemetry.ingest(a_sample(index, seconds_ago) for index, seconds_ago in enumerate((100_000, 90_000, 50, 20)))
            telemetry.ingest([a_sample(3, 20)])  # again
            cost = DeviceCost("d1", "dev-1", "rk3588", True, 0.5, 0.25, 2.0, "modelled", None)
            telemetry.record("r1", NOW - 10, a_request(cost))
            telemetry.record("r2", NOW - 100_000, a_request(cost))
            telemetry.thin(NOW)
            assert [one.requests for one in telemetry.percentiles(200_000, NOW, "model", (50,)).series] == [2] * 6
            said.append([telemetry.costs(seconds, by, NOW) for by in get_args(By) for seconds in (60.0, 200_000.0)])
    assert said[0] == said[1]
    assert all(rows for rows in said[0])


def a_request(cost: DeviceCost) -> FinishedRequest:
    return FinishedRequest(
        model="tiny",
        deployment="chat",
        finish_reason="stop",
        prompt_tokens=5,
        completion_tokens=7,
        ttft_seconds=0.1,
        tpot_seconds=0.01,
        modelled_ttft_seconds=0.2,
        modelled_tpot_seconds=0.02,
        total_seconds=1.0,
        devices=(cost,),
    )


def a_sample(index: int, seconds_ago: float) -> Received:
    sample = pb.TelemetrySample(device_id="d1", boot_id="b1", index=index, uptime_seconds=1e6 - seconds_ago)
    sample.energy.source, sample.energy.busy_joules, sample.energy.idle_joules = pb.ENERGY_SOURCE_MODELLED, 3.0 * index, 5.0 * index
    sample.pipelines.add(pipeline_id="chat-1", busy_seconds=index, modelled_busy_seconds=2 * index, decode_tokens=index)
    if index != 3:  # as of an agent that does not count its work
        sample.work.CopyFrom(pb.WorkCounter(prefill_tokens=9, answer_tokens=2 * index, busy_seconds=index, busy_joules=3.0 * index))
    return Received(sample, NOW - seconds_ago, Registered("dev-1"))


def test_an_older_store_is_migrated_and_a_newer_one_refused(url: str) -> None:
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:  # as the first release made it: today's tables, without Alembic's and what was added since
        since = (alembic_version, audit_heads, request_sketches)
        metadata.create_all(connection, tables=[table for table in metadata.sorted_tables if table not in since])
        connection.execute(text("ALTER TABLE requests DROP COLUMN queue_seconds"))
        for added in ("prefill_tokens", "decode_tokens", "answer_tokens", "work_seconds", "modelled_work_seconds", "work_joules"):
            connection.execute(text(f"ALTER TABLE samples DROP COLUMN {added}"))
        connection.execute(insert(schema_info).values(version=2))
    together = threading.Barrier(3)

    def opened(_: int) -> int:
        together.wait(10)
        with Store(url) as store:
            return DeploymentRecords(store).generation("nothing")

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(opened, range(3))) == [0, 0, 0]
    with engine.begin() as connection:
        assert connection.execute(alembic_version.select()).all() == [(schema.NEWEST,)]
        assert connection.execute(schema_info.select()).all() == [(schema.MARK,)]
        connection.execute(alembic_version.update().values(version_num="7"))
        connection.execute(text("DROP TABLE devices"))
    with pytest.raises(Conflict, match="has schema 7; this glmfleet reads 2 to 6"):
        Store(url)
    assert not inspect(engine).has_table("devices")  # nothing was made that the newer one does not want
    engine.dispose()


def test_those_who_find_it_empty_at_once_make_it_once(url: str) -> None:
    together = threading.Barrier(4)

    def opened(number: int) -> None:
        together.wait(10)
        with Store(url) as store:
            DeploymentRecords(store).put_deployment(f"d{number}", 1, "{}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(opened, range(4)))
    with Store(url) as store:
        assert [one.name for one in DeploymentRecords(store).deployments()] == ["d0", "d1", "d2", "d3"]


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(InvalidInput) as refused:
        Store("postgresql://fleet:secret@127.0.0.1:1/postgres")  # pragma: allowlist secret
    assert "127.0.0.1:1" in refused.value.detail
    assert "secret" not in refused.value.detail


def test_the_head_of_the_audit_log_is_kept(url: str) -> None:
    with Store(url) as store:
        heads = AuditHeads(store, "fleet")
        assert heads.last() is None
        for sequence in (1, 2):
            heads.put(sequence, "d" * 64, f'{{"sequence": {sequence}}}')
        assert heads.last() == (2, "d" * 64, '{"sequence": 2}')
        assert AuditHeads(store, "another").last() is None
