"""The last line of the audit log, apart from its files."""

from __future__ import annotations

from sqlalchemy import insert, select, update

from fleet.store.database import Store
from fleet.store.tables import audit_heads


class AuditHeads:
    """Over a store, of the log of this name: calls block, and raise what a store raises."""

    def __init__(self, store: Store, log: str) -> None:
        self._store = store
        self._log = log

    def last(self) -> tuple[int, str, str] | None:
        """Number, hash and text of the last line; None before the first."""
        table = audit_heads.c
        with self._store.reading() as connection:
            row = connection.execute(select(table.sequence, table.digest, table.line).where(table.log == self._log)).first()
        return None if row is None else (row.sequence, row.digest, row.line)

    def put(self, sequence: int, digest: str, line: str) -> None:
        values = {"sequence": sequence, "digest": digest, "line": line}
        with self._store.writing() as connection:
            if not connection.execute(update(audit_heads).where(audit_heads.c.log == self._log).values(**values)).rowcount:
                connection.execute(insert(audit_heads).values(log=self._log, **values))
