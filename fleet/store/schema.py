"""The version of a database's tables: what is too new is refused, what is older is migrated, what is empty gets them all.

For a new schema, change tables.py, add migrations/versions/schema_N.py with the same change, and N to REVISIONS.
"""

from __future__ import annotations

import threading

from sqlalchemy import Connection, insert, inspect, select, text

from fleet.store.tables import alembic_version, metadata, schema_info
from protos.errors import Conflict

REVISIONS = ("2", "3", "4", "5", "6")  # those of migrations/versions, oldest first
NEWEST = REVISIONS[-1]
MARK = 3  # see tables.py: schema_info
_LOCK = 0x676C6D66  # of PostgreSQL: whoever migrates holds it
_one_migration = threading.Lock()  # Alembic keeps the one it is in in a module


def revision(connection: Connection, shown: str) -> str | None:
    """Of the tables there; None when there are none. Changes nothing. Raises Conflict for one that this version does not read.

    `shown` is what to call the database.
    """
    found = _revision(connection)
    if found is None or found in REVISIONS:
        return found
    older = found.isdecimal() and int(found) < int(REVISIONS[0])
    raise Conflict(
        f"{shown} has schema {found}; this glmfleet reads {REVISIONS[0]} to {NEWEST}",
        advice="move it away to start a new one" if older else "use the newer glmfleet that made it, or another home",
    )


def bring_up_to_date(connection: Connection, shown: str) -> None:
    """In the caller's transaction, which holds the database's write lock. Raises as `revision`."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    found = revision(connection, shown)  # another process may have been first
    if found is None:
        metadata.create_all(connection)
        connection.execute(insert(schema_info).values(version=MARK))
        connection.execute(insert(alembic_version).values(version_num=NEWEST))
    elif found != NEWEST:
        if not inspect(connection).has_table(alembic_version.name):
            alembic_version.create(connection)
            connection.execute(insert(alembic_version).values(version_num=found))
        _migrate(connection)


def _revision(connection: Connection) -> str | None:
    tables = inspect(connection)
    if tables.has_table(alembic_version.name):
        return connection.execute(select(alembic_version.c.version_num)).scalar()
    if tables.has_table(schema_info.name):
        version = connection.execute(select(schema_info.c.version)).scalar()
        return None if version is None else str(version)
    return None


def _migrate(connection: Connection) -> None:
    # Loaded here: it takes a quarter of a second, which only the first start after an update has to wait for.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "fleet.store:migrations")
    with _one_migration:
        command.upgrade(config, NEWEST)
