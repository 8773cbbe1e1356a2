"""The coordinator's database: tables, transactions, and what is wanted of each deployment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from protos.errors import Busy, Conflict, Corrupt, FleetError, Internal, InvalidInput, NoSpace

SCHEMA_VERSION = 2
BUSY_SECONDS = 5  # how long a writer waits for another one

metadata = MetaData()

schema_info = Table("schema_info", metadata, Column("version", Integer, nullable=False))

# A removed deployment keeps its row, with no `desired`: devices refuse generations they have already seen.
deployments = Table(
    "deployments",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("desired", Text),
)

devices = Table(
    "devices",
    metadata,
    Column("device_id", String(64), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("hollow", Boolean, nullable=False),  # it computes nothing
)

# Counters since the boot, as the device told them; thinned with age (fleet/telemetry/records.py).
samples = Table(
    "samples",
    metadata,
    Column("device_id", String(64), primary_key=True),
    Column("boot_id", String(64), primary_key=True),
    Column("sample_index", BigInteger, primary_key=True, autoincrement=False),
    Column("received_at", Float, nullable=False),  # unix seconds by the coordinator's clock
    Column("uptime_seconds", Float, nullable=False),
    Column("source", String(16), nullable=False),
    Column("busy_joules", Float),
    Column("idle_joules", Float),
    Column("power_watts", Float),
    Column("temperature_celsius", Float),
    Column("memory_used_bytes", BigInteger, nullable=False),
    Column("process_rss_bytes", BigInteger, nullable=False),
    Column("process_cpu_seconds", Float, nullable=False),
    Index("samples_by_time", "received_at"),
)

pipeline_samples = Table(
    "pipeline_samples",
    metadata,
    Column("device_id", String(64), primary_key=True),
    Column("boot_id", String(64), primary_key=True),
    Column("sample_index", BigInteger, primary_key=True, autoincrement=False),
    Column("pipeline_id", String(128), primary_key=True),
    Column("manifest_digest", String(64), nullable=False),
    Column("prefill_tokens", BigInteger, nullable=False),
    Column("decode_tokens", BigInteger, nullable=False),
    Column("steps", BigInteger, nullable=False),
    Column("busy_seconds", Float, nullable=False),
    Column("modelled_busy_seconds", Float, nullable=False),
    Column("busy_joules", Float),
    Column("sent_bytes", BigInteger, nullable=False),
    Column("open_sequences", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["device_id", "boot_id", "sample_index"],
        ["samples.device_id", "samples.boot_id", "samples.sample_index"],
        ondelete="CASCADE",
    ),
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("finished_at", Float, nullable=False),  # unix seconds by the coordinator's clock
    Column("model", String(128), nullable=False),
    Column("deployment", String(128), nullable=False),
    Column("finish_reason", String(16), nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("ttft_seconds", Float, nullable=False),
    Column("tpot_seconds", Float),
    Column("modelled_ttft_seconds", Float),
    Column("modelled_tpot_seconds", Float),
    Column("total_seconds", Float, nullable=False),
    Index("requests_by_time", "finished_at"),
)

request_costs = Table(
    "request_costs",
    metadata,
    Column("request_id", String(64), ForeignKey("requests.request_id", ondelete="CASCADE"), primary_key=True),
    Column("device_id", String(64), primary_key=True),
    Column("source", String(16), primary_key=True),
    Column("busy_seconds", Float, nullable=False),
    Column("modelled_busy_seconds", Float),
    Column("joules", Float),
)


@dataclass(frozen=True)
class StoredDeployment:
    name: str
    generation: int
    desired: str  # JSON


class Store:
    """One database. Calls block (run them in an executor) and may come from any thread; each is one short transaction.

    Every call raises NoSpace when the disk is full, Busy when another writer does not let go, Corrupt when the file is no database of ours.
    """

    def __init__(self, where: Path | str) -> None:
        """`where`: the path of a SQLite file, or a database URL. Raises Conflict when a newer glmfleet made it."""
        url = URL.create("sqlite", database=str(where)) if isinstance(where, Path) else _parse_url(where)
        self._shown = url.render_as_string(hide_password=True)
        try:
            self._engine = _engine(url)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise InvalidInput(f"no driver for {self._shown}", advice="use a file, or install the database's Python driver") from error
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: all of it, or nothing."""
        # The write lock is taken at the start: a reader that becomes a writer halfway could be refused without waiting.
        with self._translated(), self._engine.connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection

    def deployments(self) -> list[StoredDeployment]:
        """Those that are wanted, by name."""
        query = select(deployments).where(deployments.c.desired.is_not(None)).order_by(deployments.c.name)
        with self.reading() as connection:
            return [StoredDeployment(row.name, row.generation, row.desired) for row in connection.execute(query)]

    def generation(self, name: str) -> int:
        """The highest ever stored under this name, removed ones included; 0 when there was none."""
        with self.reading() as connection:
            return connection.execute(select(deployments.c.generation).where(deployments.c.name == name)).scalar() or 0

    def put_deployment(self, name: str, generation: int, desired: str) -> None:
        """Raises Conflict when a higher generation is stored."""
        self._put(name, generation, desired)

    def remove_deployment(self, name: str, generation: int) -> None:
        """Not wanted any more; its generation stays known. Raises Conflict when a higher generation is stored."""
        self._put(name, generation, None)

    def _put(self, name: str, generation: int, desired: str | None) -> None:
        with self.writing() as connection:
            stored = connection.execute(select(deployments.c.generation).where(deployments.c.name == name)).scalar()
            values = {"generation": generation, "desired": desired}
            if stored is None:
                connection.execute(insert(deployments).values(name=name, **values))
            elif stored > generation:
                raise Conflict(f"deployment {name} is at generation {stored}; this is {generation}", advice="read it again and retry")
            else:
                connection.execute(update(deployments).where(deployments.c.name == name).values(**values))

    def _prepare(self) -> None:
        with self.writing() as connection:
            schema_info.create(connection, checkfirst=True)
            version = connection.execute(select(schema_info.c.version)).scalar()
            if version is None:
                connection.execute(insert(schema_info).values(version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                raise Conflict(
                    f"{self._shown} has schema {version}; this glmfleet reads {SCHEMA_VERSION}",
                    advice="use the newer glmfleet" if version > SCHEMA_VERSION else "move the file away to start a new one",
                )
            metadata.create_all(connection)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._ours(error) from error

    def _ours(self, error: DBAPIError) -> FleetError:
        """By the database's own code: SQLite's name for it, or the SQLSTATE of others."""
        said = str(error.orig).strip()
        detail = f"{self._shown}: {said.splitlines()[0] if said else type(error.orig).__name__}"
        code = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None) or ""
        if code.startswith(("SQLITE_FULL", "53100")):
            return NoSpace(detail, advice="free disk space; nothing was written")
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "40")):
            return Busy(detail, retry_after_seconds=1.0)
        if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return Corrupt(detail, advice="move the file away to start a new one")
        if isinstance(error, OperationalError):
            return InvalidInput(f"cannot use {detail}", advice="check that it exists, and may be read and written")
        return Internal(detail)


def _parse_url(text: str) -> URL:
    try:
        return make_url(text)
    except ArgumentError as error:
        raise InvalidInput(f"not a database URL: {text[:80]!r}", advice="for example postgresql+psycopg://host/glmfleet") from error


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    if not url.database or url.database == ":memory:":
        raise InvalidInput("a store in memory would be a different one in each thread", advice="name a file")
    # Autocommit in the driver: SQLAlchemy's own BEGIN below says when, and how, a transaction starts.
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        for pragma in (f"busy_timeout = {BUSY_SECONDS * 1000}", "journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("immediate") else "BEGIN")

    return engine
