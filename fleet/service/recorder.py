"""The audit log as the coordinator uses it: who changes what is written before and after, and what it does by itself as well."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from fleet.access import AuditEntry, AuditVerdict
from fleet.background import Background
from fleet.principal import COORDINATOR, Principal
from fleet.store.audit_heads import AuditHeads
from fleet.store.database import Store
from fleet.trust.audit import AuditLog, Head
from protos.errors import FleetError

_log = logging.getLogger(__name__)


class Recorder:
    """An async context manager: what was noted while inside is in the log after it."""

    def __init__(self, folder: Path, store: Store, log: str, clock: Callable[[], float] = time.time) -> None:
        """Blocks. `log` names it in the store."""
        self._audit = AuditLog(folder, _Heads(AuditHeads(store, log)), clock)
        self._notes: asyncio.Queue[tuple[str, Mapping[str, object], str]] = asyncio.Queue()
        self._background = Background()

    async def __aenter__(self) -> Self:
        self._background.start(self._write_notes(), "write the audit log")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._notes.join()
        await self._background.__aexit__(kind, error, trace)

    async def write(
        self,
        who: Principal,
        call: str,
        outcome: str,
        arguments: Mapping[str, object] = {},
        *,
        of: int | None = None,
        before: str = "",
        after: str = "",
        detail: str = "",
    ) -> int:
        """The number of the line. It is on the disk. Raises FleetError."""
        return await asyncio.to_thread(
            self._audit.append,
            who=who.name,
            role=who.role,
            key_id=who.key_id,
            call=call,
            outcome=outcome,
            arguments=arguments,
            of=of,
            before=before,
            after=after,
            detail=detail,
        )

    def note(self, call: str, arguments: Mapping[str, object], after: str = "") -> None:
        """The coordinator has done this by itself: it is written soon."""
        self._notes.put_nowait((call, arguments, after))

    async def entries(self, since: float) -> list[AuditEntry]:
        return await asyncio.to_thread(self._audit.entries, since)

    async def verify(self) -> AuditVerdict:
        return await asyncio.to_thread(self._audit.verify)

    async def _write_notes(self) -> None:
        while True:
            call, arguments, after = await self._notes.get()
            try:
                await self.write(COORDINATOR, call, "done", arguments, after=after)
            except FleetError as error:
                _log.error("the audit log lacks that %s %s: %s", call, dict(arguments), error.detail)
            finally:
                self._notes.task_done()


class _Heads:
    """A HeadStore over the database."""

    def __init__(self, heads: AuditHeads) -> None:
        self._heads = heads

    def read(self) -> Head | None:
        last = self._heads.last()
        return None if last is None else Head(*last)

    def write(self, head: Head) -> None:
        self._heads.put(head.sequence, head.digest, head.line)
