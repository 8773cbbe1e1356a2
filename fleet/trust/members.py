"""Who was ever given a certificate by this fleet, and who has been expelled since."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fleet.home import create_private, locked, write_private
from protos.errors import Corrupt, Denied
from protos.ids import DeviceId

EXPELLED = "was expelled from this fleet"


@dataclass(frozen=True)
class MemberRecord:
    """`since` and `revoked` in unix seconds; `revoked` is 0 for one that is of the fleet."""

    member_id: DeviceId
    role: str
    name: str
    since: float
    revoked: float = 0.0


class Members:
    """Of one fleet, in a file beside its authority. Blocks for some milliseconds; processes do not disturb each other."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = folder / "members.json"
        self._lock = folder / "members.lock"
        self._clock = clock

    def all(self) -> list[MemberRecord]:
        """The newest first. Raises Corrupt."""
        return sorted(self._read().values(), key=lambda record: -record.since)

    def find(self, member: DeviceId) -> MemberRecord | None:
        return self._read().get(member)

    def revoked(self) -> frozenset[DeviceId]:
        return frozenset(record.member_id for record in self._read().values() if record.revoked)

    def admit(self, member: DeviceId, role: str, name: str) -> None:
        """It is to be given a certificate. Raises Denied when it was expelled: its key may be in other hands."""
        with self._changing() as records:
            known = records.get(member)
            if known is not None and known.revoked:
                raise Denied(f"{known.name} ({member}) {EXPELLED}", advice="`glmfleet device leave --wipe` there makes it a new board")
            records[member] = replace(known, role=role, name=name) if known else MemberRecord(member, role, name, self._clock())

    def revoke(self, member: DeviceId, name: str = "") -> None:
        """Also of one that is not known: who holds its key can then not come back. Again is no error."""
        with self._changing() as records:
            known = records.get(member) or MemberRecord(member, "device", name or member, self._clock())
            records[member] = known if known.revoked else replace(known, revoked=self._clock())

    @contextmanager
    def _changing(self) -> Iterator[dict[DeviceId, MemberRecord]]:
        self._begin()
        with locked(self._lock):
            records = self._read()
            before = dict(records)
            yield records
            if records != before:
                write_private(self._file, json.dumps([asdict(record) for record in records.values()], indent=1).encode())

    def _begin(self) -> None:
        """An empty list, before there is a lock: where there is a lock and no list, the list was lost."""
        if not self._lock.exists():
            create_private(self._file, b"[]")

    def _read(self) -> dict[DeviceId, MemberRecord]:
        try:
            found = [MemberRecord(**entry) for entry in json.loads(self._file.read_bytes())]
            return {record.member_id: record for record in found}
        except FileNotFoundError:
            if not self._lock.exists():
                return {}
            advice = f"restore it from a backup; if nobody was ever expelled, write [] into it: echo '[]' > {self._file}"
            raise Corrupt(f"{self._file} is gone: whoever was expelled would be a member again", advice=advice) from None
        except (OSError, ValueError, TypeError) as error:
            # Never taken for empty: the expelled would be members again.
            raise Corrupt(f"{self._file} cannot be read: {error}", advice="restore it from a backup, with the authority's key") from error
