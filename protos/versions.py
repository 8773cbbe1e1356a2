"""Which versions of the protocol a program speaks, and the newest that two programs have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from protos.errors import Conflict


@dataclass(frozen=True)
class Versions:
    """All from `oldest` to `newest`. What a peer that does not know them would misunderstand needs a new version; a field does not."""

    oldest: int
    newest: int

    def __str__(self) -> str:
        return str(self.newest) if self.oldest == self.newest else f"{self.oldest} to {self.newest}"


# A release speaks what the release before it spoke: the two are updated one after the other, in either order.
SPOKEN = Versions(1, 1)


class VersionedMessage(Protocol):
    """A message that says what its sender speaks."""

    protocol_version: int
    oldest_protocol_version: int


def versions_of(message: VersionedMessage) -> Versions:
    """The first release says one version, and no oldest."""
    return Versions(message.oldest_protocol_version or message.protocol_version, message.protocol_version)


def in_common(message: VersionedMessage, who: str, us: str, ours: Versions = SPOKEN) -> int:
    """The newest version that both speak. Raises Conflict saying which of the two, `who` or `us`, is to be updated.

    >>> from protos.v1.pipeline_pb2 import Attach
    >>> in_common(Attach(protocol_version=3, oldest_protocol_version=2), "dev-1", "the coordinator", Versions(1, 2))
    2
    """
    theirs = versions_of(message)
    newest = min(theirs.newest, ours.newest)
    if newest < max(theirs.oldest, ours.oldest):
        outdated = who if theirs.newest < ours.oldest else us
        raise Conflict(f"it speaks protocol {theirs}, {us} {ours}; update {outdated}").at(who)
    return newest
