"""Fleets and their members for tests: a real authority and real certificates in a temporary folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from device.agent.identity import Identity, load_identity
from fleet.trust.authority import Authority, Role
from protos.ids import FleetId
from protos.net.transport import Credentials


@dataclass(frozen=True)
class TestFleet:
    __test__ = False

    folder: Path
    authority: Authority

    @classmethod
    def open(cls, folder: Path) -> TestFleet:
        return cls(folder, Authority.open(folder / "authority"))

    @property
    def fleet_id(self) -> FleetId:
        return self.authority.fleet_id

    def member(self, name: str, role: Role = "device") -> Identity:
        self.authority.issue_folder(self.folder / name, role, name)
        return load_identity(self.folder / name)


def credentials_of(identity: Identity) -> Credentials:
    assert identity.credentials is not None
    return identity.credentials
