"""The coordinator's database: transactions, and what is wanted of each deployment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Connection, insert, select, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from fleet.store import schema
from fleet.store.engine import make_engine, parse_url, write_ahead
from fleet.store.tables import deployments
from protos.errors import Busy, Conflict, Corrupt, FleetError, Internal, InvalidInput, NoSpace, Unavailable


@dataclass(frozen=True)
class StoredDeployment:
    name: str
    generation: int
    desired: str  # JSON


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
            query = select(deployments.c.generation).where(deployments.c.name == name).with_for_update()
            stored = connection.execute(query).scalar()
            values = {"generation": generation, "desired": desired}
            if stored is None:
                connection.execute(insert(deployments).values(name=name, **values))
            elif stored > generation:
                raise Conflict(f"deployment {name} is at generation {stored}; this is {generation}", advice="read it again and retry")
            else:
                connection.execute(update(deployments).where(deployments.c.name == name).values(**values))

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
