from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, select

from fleet.deploying.desired import Desired
from fleet.deploying.stored import read
from fleet.store import schema
from fleet.store.database import Store
from fleet.store.deployments import DeploymentRecords
from fleet.store.tables import metadata, request_costs, samples
from fleet.telemetry.records import Received, Registered, TelemetryRecords
from protos.errors import Conflict
from protos.v1 import telemetry_pb2 as pb

OPENERS = 4


def of_the_release_before(path: Path) -> Path:
    """A store that its code made: a deployment, one that was removed, and some telemetry."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript((Path(__file__).parent / "schema_2.sql").read_text())
        connection.execute("PRAGMA journal_mode = WAL")
    return path


def shape(path: Path) -> dict[str, object]:
    """All that the database says of its tables."""
    engine = create_engine(f"sqlite:///{path}")
    try:
        found = inspect(engine)
        return {
            table: (
                [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(table)],
                found.get_pk_constraint(table)["constrained_columns"],
                sorted(
                    (key["constrained_columns"], key["referred_table"], key["referred_columns"], key["options"])
                    for key in found.get_foreign_keys(table)
                ),
                sorted((index["name"], index["column_names"], index["unique"]) for index in found.get_indexes(table)),
            )
            for table in found.get_table_names()
        }
    finally:
        engine.dispose()


def mark(path: Path) -> tuple[object, object]:
    with closing(sqlite3.connect(path)) as connection:
        revisions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        return revisions, connection.execute("SELECT version FROM schema_info").fetchall()


def test_a_store_of_the_release_before_keeps_all_it_had(tmp_path: Path) -> None:
    with Store(of_the_release_before(tmp_path / "state.sqlite")) as store:
        [stored] = DeploymentRecords(store).deployments()
        desired = read(stored.name, stored.generation, stored.desired)
        assert isinstance(desired, Desired)
        assert [(spec.pipeline_id, spec.epoch) for spec in desired.pipelines] == [("chat-3", 3)]
        assert [stage.device_name for stage in desired.pipelines[0].plan.stages] == ["dev-1", "dev-2"]
        assert DeploymentRecords(store).generation("gone") == 2
        with store.reading() as connection:
            assert connection.execute(select(samples.c.busy_joules)).scalars().all() == [1.5]
            assert connection.execute(select(request_costs.c.joules)).scalars().all() == [1.5]
        DeploymentRecords(store).put_deployment("chat", 4, "{}")
    with Store(tmp_path / "state.sqlite") as again:
        assert DeploymentRecords(again).generation("chat") == 4


def test_what_was_migrated_is_what_is_made_new(tmp_path: Path) -> None:
    old, new = of_the_release_before(tmp_path / "old.sqlite"), tmp_path / "new.sqlite"
    for path in (old, new):
        Store(path).close()
    assert shape(old) == shape(new)
    assert shape(new).keys() == metadata.tables.keys()
    assert mark(old) == mark(new) == ([(schema.NEWEST,)], [(schema.MARK,)])
    assert schema.MARK != 2  # which the release before would open, and unload what it cannot read


def test_telemetry_of_a_store_of_any_older_schema_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its samples tell no tokens: their rows say so, and what comes after the update is counted."""
    path = of_the_release_before(tmp_path / "state.sqlite")
    monkeypatch.setattr(schema, "NEWEST", "3")
    Store(path).close()
    assert mark(path)[0] == [("3",)]
    monkeypatch.undo()
    with Store(path) as store:
        telemetry = TelemetryRecords(store)
        with store.reading() as connection:
            [at] = connection.execute(select(samples.c.received_at)).scalars()
        [row] = telemetry.costs(60.0, "device", at + 1)
        assert (row.key, row.busy_joules, row.completion_tokens, row.joules_per_token, row.partial) == ("dev-1", 1.5, None, None, True)
        sample = pb.TelemetrySample(device_id="aaaaaaaaaaaaaaaa", boot_id="boot", index=9, uptime_seconds=20.0)
        sample.energy.source, sample.work.answer_tokens, sample.work.busy_joules = pb.ENERGY_SOURCE_MODELLED, 4, 2.0
        telemetry.ingest([Received(sample, at + 20, Registered("dev-1"))])
        [row] = telemetry.costs(60.0, "device", at + 20)
        assert (row.completion_tokens, row.joules_per_token) == (4, 0.5)


def test_the_revisions_are_those_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", "fleet.store:migrations")
    chain = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(chain)) == schema.REVISIONS


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_store_of_the_next_version_is_refused_unharmed(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "state.sqlite"
    with Store(path) as store:
        DeploymentRecords(store).put_deployment("chat", 1, "{}")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '7'")
        connection.execute("ALTER TABLE deployments RENAME TO wishes")
        connection.commit()
        connection.execute(f"PRAGMA journal_mode = {journal}")
    before = path.read_bytes()
    with pytest.raises(Conflict, match=r"state\.sqlite has schema 7; this glmfleet reads 2 to 6") as refused:
        Store(path)
    assert "newer glmfleet" in refused.value.advice
    assert path.read_bytes() == before
    assert [left.name for left in tmp_path.iterdir()] == ["state.sqlite"]


@pytest.mark.parametrize(("version", "advice"), [(1, "move it away"), (99, "newer glmfleet")])
def test_a_store_from_before_there_were_migrations_has_one_version_that_is_read(tmp_path: Path, version: int, advice: str) -> None:
    path = of_the_release_before(tmp_path / "state.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE schema_info SET version = ?", [version])
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(Conflict, match=f"schema {version}") as refused:
        Store(path)
    assert advice in refused.value.advice
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = of_the_release_before(tmp_path / "state.sqlite")
    before = shape(path)

    def fail_after_migrating(connection: Connection) -> None:
        migrate(connection)
        raise RuntimeError("the power went")

    migrate = schema._migrate
    monkeypatch.setattr(schema, "_migrate", fail_after_migrating)
    with pytest.raises(RuntimeError):
        Store(path)
    assert shape(path) == before
    monkeypatch.undo()
    with Store(path) as store:
        assert [one.name for one in DeploymentRecords(store).deployments()] == ["chat"]


def open_and_count(path: Path, together: threading.Barrier) -> int:
    together.wait(60)
    with Store(path) as store:
        return len(DeploymentRecords(store).deployments())


def open_in_process(path: Path, together: threading.Barrier, counts: multiprocessing.Queue[int]) -> None:
    counts.put(open_and_count(path, together))


@pytest.mark.long
@pytest.mark.parametrize("old", [True, False])
def test_processes_that_open_it_at_once_all_find_it_whole(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "state.sqlite"
    if old:
        of_the_release_before(path)
    fresh = multiprocessing.get_context("spawn")
    together, counts = fresh.Barrier(OPENERS), fresh.Queue()
    openers = [fresh.Process(target=open_in_process, args=(path, together, counts)) for _ in range(OPENERS)]
    for opener in openers:
        opener.start()
    assert [counts.get(timeout=60) for _ in openers] == [old] * OPENERS
    for opener in openers:
        opener.join(60)
    assert mark(path) == ([(schema.NEWEST,)], [(schema.MARK,)])


def test_threads_migrate_stores_of_their_own_beside_each_other(tmp_path: Path) -> None:
    together = threading.Barrier(OPENERS)
    paths = [of_the_release_before(tmp_path / f"{number}.sqlite") for number in range(OPENERS)]
    with ThreadPoolExecutor(OPENERS) as threads:
        assert list(threads.map(lambda path: open_and_count(path, together), paths)) == [1] * OPENERS
    assert [mark(path) for path in paths] == [([(schema.NEWEST,)], [(schema.MARK,)])] * OPENERS


def test_whoever_comes_during_a_migration_waits_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = of_the_release_before(tmp_path / "state.sqlite")
    migrating, go_on = threading.Event(), threading.Event()
    migrate = schema._migrate

    def slowly(connection: Connection) -> None:
        migrating.set()
        assert go_on.wait(10)
        migrate(connection)

    monkeypatch.setattr(schema, "_migrate", slowly)

    def opened() -> int:
        with Store(path) as store:
            return len(DeploymentRecords(store).deployments())

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(opened)
        assert migrating.wait(10)
        second = threads.submit(opened)
        with pytest.raises(TimeoutError):
            second.result(0.3)
        go_on.set()
        assert (first.result(10), second.result(10)) == (1, 1)


def test_alembic_is_loaded_only_to_migrate(tmp_path: Path) -> None:
    """It takes a quarter of a second: neither a new store nor one that is up to date needs it, let alone the command's help."""
    program = "import sys; from pathlib import Path; from fleet.store.database import Store; Store(Path(sys.argv[1])).close(); "
    program += "print('alembic' in sys.modules)"
    old = of_the_release_before(tmp_path / "old.sqlite")
    paths = [tmp_path / "new.sqlite", tmp_path / "new.sqlite", old, old]
    said = [subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True, text=True).stdout for path in paths]
    assert said == ["False\n", "False\n", "True\n", "False\n"]
