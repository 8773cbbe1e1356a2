from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from fleet.store import engine
from fleet.store.database import Store
from fleet.store.deployments import DeploymentRecords, StoredDeployment
from fleet.store.tables import devices
from protos.errors import Busy, Conflict, Corrupt, FleetError, InvalidInput, NoSpace, Unavailable


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "state.sqlite") as opened:
        yield opened


def test_deployments_outlive_the_process(tmp_path: Path) -> None:
    with Store(tmp_path / "state.sqlite") as store:
        DeploymentRecords(store).put_deployment("b", 1, '{"x": 1}')
        DeploymentRecords(store).put_deployment("a", 3, "{}")
        DeploymentRecords(store).put_deployment("b", 2, '{"x": 2}')
    with Store(f"sqlite:///{tmp_path / 'state.sqlite'}") as store:
        assert DeploymentRecords(store).deployments() == [StoredDeployment("a", 3, "{}"), StoredDeployment("b", 2, '{"x": 2}')]


def test_a_removed_deployment_keeps_its_generation(store: Store) -> None:
    assert DeploymentRecords(store).generation("a") == 0
    DeploymentRecords(store).put_deployment("a", 4, "{}")
    DeploymentRecords(store).remove_deployment("a", 5)
    assert DeploymentRecords(store).deployments() == []
    assert DeploymentRecords(store).generation("a") == 5
    DeploymentRecords(store).put_deployment("a", 6, "{}")
    assert DeploymentRecords(store).deployments() == [StoredDeployment("a", 6, "{}")]


def test_a_lower_generation_is_refused(store: Store) -> None:
    DeploymentRecords(store).put_deployment("a", 4, "new")
    with pytest.raises(Conflict, match="generation 4; this is 3"):
        DeploymentRecords(store).put_deployment("a", 3, "old")
    with pytest.raises(Conflict):
        DeploymentRecords(store).remove_deployment("a", 3)
    assert DeploymentRecords(store).deployments() == [StoredDeployment("a", 4, "new")]


def test_threads_write_one_after_another(store: Store) -> None:
    together = threading.Barrier(8)

    def write(number: int) -> None:
        together.wait()
        for generation in range(1, 11):
            DeploymentRecords(store).put_deployment(f"d{number}", generation, "{}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    assert [deployment.generation for deployment in DeploymentRecords(store).deployments()] == [10] * 8


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.writing() as connection:
            connection.execute(insert(devices).values(device_id="d", name="n", hollow=False))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with store.reading() as connection:
        assert connection.execute(devices.select()).all() == []


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(Corrupt, match=r"state\.sqlite"):
        Store(path)
    assert path.read_bytes() == b"not a database, " * 100


def test_a_folder_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="unable to open database file"):
        Store(tmp_path / "nowhere" / "state.sqlite")


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "nosuchdatabase://host/x", "mysql://host/x"])
def test_a_url_that_cannot_be_used_is_the_users_mistake(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Store(url)
    assert caught.value.advice


def test_a_full_disk_is_no_space_and_nothing_is_written(store: Store) -> None:
    DeploymentRecords(store).put_deployment("a", 1, "{}")
    with store.reading() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        # The same error code as the operating system's ENOSPC gives. One connection of the pool holds the limit.
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(NoSpace, match="full") as caught:
        DeploymentRecords(store).put_deployment("a", 2, "x" * 1_000_000)
    assert caught.value.advice
    assert DeploymentRecords(store).deployments() == [StoredDeployment("a", 1, "{}")]


def test_a_writer_that_does_not_let_go_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0)
    path = tmp_path / "state.sqlite"
    with Store(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Busy) as caught:
                DeploymentRecords(store).put_deployment("a", 1, "{}")
            assert caught.value.retry_after_seconds > 0
            assert DeploymentRecords(store).deployments() == []  # readers are not held up
        finally:
            other.close()


def test_the_file_is_in_wal_mode(store: Store) -> None:
    with store.reading() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 1


class _Told(Exception):
    """As a driver tells it."""

    def __init__(self, said: str, sqlstate: str | None = None) -> None:
        super().__init__(said)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (_Told("connection to server at 127.0.0.1 failed: Connection refused"), Unavailable),
        (_Told("terminating connection due to administrator command", "57P01"), Unavailable),
        (_Told("connection failure", "08006"), Unavailable),
        (_Told("could not serialize access", "40001"), Busy),
        (_Told("disk full", "53100"), NoSpace),
        (_Told("database does not exist", "3D000"), InvalidInput),
    ],
)
def test_what_a_server_says_becomes_an_error_of_ours(tmp_path: Path, told: _Told, kind: type[FleetError]) -> None:
    with Store(tmp_path / "state.sqlite") as store:
        store._on_a_server = True
        with pytest.raises(kind), store._translated():
            raise OperationalError("select 1", {}, told)


def test_when_every_connection_is_in_use_it_is_busy(tmp_path: Path) -> None:
    with Store(tmp_path / "state.sqlite") as store, pytest.raises(Busy), store._translated():
        raise PoolTimeout("QueuePool limit of size 5 overflow 10 reached")
