"""The coordinator's database: opened, brought up to date, and read and written in transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from fleet.store import schema
from fleet.store.engine import make_engine, parse_url, write_ahead
from protos.errors import Busy, Corrupt, FleetError, Internal, InvalidInput, NoSpace, Unavailable


class Store:
    """One database. Calls block (run them in an executor) and may come from any thread; each is one short transaction.

    Every call raises NoSpace when the disk is full, Busy when another writer does not let go, Corrupt when the file is
    no database of ours, Unavailable while a database's server does not answer.
    """

    def __init__(self, where: Path | str) -> None:
        """`where`: the path of a SQLite file, or a database URL. An older version's is migrated. Raises Conflict for a newer one's."""
        url = URL.create("sqlite", database=str(where)) if isinstance(where, Path) else parse_url(where)
        self._shown = url.render_as_string(hide_password=True)
        self._on_a_server = url.get_backend_name() != "sqlite"
        self._engine = make_engine(url)
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

    def _prepare(self) -> None:
        with self.reading() as connection:
            found = schema.revision(connection, self._shown)
        if found != schema.NEWEST:
            with self.writing() as connection:
                schema.bring_up_to_date(connection, self._shown)
        write_ahead(self._engine)  # not of a file that was refused: it would change

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._ours(error) from error
        except PoolTimeout as error:  # every connection is in use
            raise Busy(f"{self._shown}: {' '.join(str(error).split())[:100]}", retry_after_seconds=1.0) from error

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
        if code.startswith(("08", "57P")) or (isinstance(error, OperationalError) and self._on_a_server and not code):
            return Unavailable(detail, advice="is the database server running?", retry_after_seconds=1.0)
        if isinstance(error, OperationalError):
            return InvalidInput(f"cannot use {detail}", advice="check that it exists, and may be read and written")
        return Internal(detail)
