"""Connections to a database, as SQLite and PostgreSQL need them."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from functools import partial
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from protos.errors import Busy, InvalidInput

BUSY_SECONDS = 5  # how long a writer waits for another one
_EXAMPLE = "for example postgresql://host/glmfleet, or sqlite:////folder/file"


def parse_url(text: str) -> URL:
    """Raises InvalidInput."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise InvalidInput(f"not a database URL: {text[:80]!r}", advice=_EXAMPLE) from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise InvalidInput(f"a store is a SQLite file or a PostgreSQL database, not {url.get_backend_name()}", advice=_EXAMPLE)
    # SQLAlchemy's own choice of a driver differs between its versions.
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def make_engine(url: URL) -> Engine:
    """Opens nothing yet. Raises InvalidInput."""
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    try:
        return create_engine(url, pool_pre_ping=True)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        shown = url.render_as_string(hide_password=True)
        raise InvalidInput(f"no driver for {shown}", advice="pip install 'glmfleet[postgresql]'") from error


def write_ahead(engine: Engine) -> None:
    """Make a SQLite file one whose readers and writer do not hold each other up; it remembers that. Raises Busy."""
    if engine.dialect.name != "sqlite":
        return
    deadline = time.monotonic() + BUSY_SECONDS
    with closing(engine.raw_connection()) as connection:  # the mode cannot be changed in a transaction, which SQLAlchemy would begin
        while True:
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                    return  # it is a matter of speed: the first write says what is wrong
                # SQLite does not wait here, as it does for a transaction.
                if time.monotonic() >= deadline:
                    raise Busy(f"{engine.url.database}: {error}", retry_after_seconds=1.0) from error
                time.sleep(0.01)


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidInput("a store in memory would be a different one in each thread", advice="name a file")
    # Autocommit in the driver: SQLAlchemy's own BEGIN below says when, and how, a transaction starts.
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        # One byte that is wrong on the disk is wrong in its own row, which says so; all others are read.
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        for pragma in (f"busy_timeout = {BUSY_SECONDS * 1000}", "synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("immediate") else "BEGIN")

    return engine
