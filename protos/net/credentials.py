"""Who we are to the other members of the fleet, whose word we take for who they are, and who is of the fleet no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from protos.errors import Denied
from protos.ids import DeviceId, FleetId


class Revoked:
    """Members that the fleet has expelled: their calls are refused, and those that stand end at once. Empty until a coordinator tells.

    Used from one event loop.
    """

    def __init__(self) -> None:
        self._members: frozenset[DeviceId] = frozenset()
        self._standing: dict[DeviceId, set[asyncio.Timeout]] = {}

    def __contains__(self, member: DeviceId) -> bool:
        return member in self._members

    @property
    def members(self) -> frozenset[DeviceId]:
        return self._members

    def add(self, members: Iterable[DeviceId]) -> None:
        """These too: nobody is taken back, so whatever comes late or twice does no harm."""
        self._members |= frozenset(members)
        now = asyncio.get_running_loop().time()
        for member in self._members & self._standing.keys():
            for deadline in self._standing[member]:
                if not deadline.expired():
                    deadline.reschedule(now)

    @asynccontextmanager
    async def unless(self, *members: DeviceId | None) -> AsyncIterator[None]:
        """Around what is done with these: it ends with Denied as soon as one of them is revoked. None is passed over."""
        given = [member for member in members if member is not None]
        self._check(given)
        try:
            async with asyncio.timeout(None) as deadline:
                for member in given:
                    self._standing.setdefault(member, set()).add(deadline)
                try:
                    yield
                finally:
                    for member in given:
                        self._forget(member, deadline)
        except TimeoutError:
            self._check(given)
            raise

    def _check(self, members: Iterable[DeviceId]) -> None:
        for member in members:
            if member in self._members:
                raise Denied(f"{member} was expelled from the fleet", advice="`glmfleet device leave --wipe` there makes it a new board")

    def _forget(self, member: DeviceId, deadline: asyncio.Timeout) -> None:
        standing = self._standing[member]
        standing.discard(deadline)
        if not standing:
            del self._standing[member]


class Credentials:
    """PEM texts: who we are, and the authority whose word we take for who others are; and the id of its fleet.

    A certificate that is renewed is replaced in place: connections made from then on show the new one, those that stand go on. `revoked`
    are members whom the authority has vouched for and the fleet does not want any more.
    """

    def __init__(self, certificate: bytes, private_key: bytes, authority: bytes, fleet: FleetId) -> None:
        self._certificate = certificate
        self.private_key = private_key
        self.authority = authority
        self.fleet = fleet
        self.revoked = Revoked()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credentials) and self._texts == other._texts

    def __hash__(self) -> int:
        return hash((self.private_key, self.authority))  # these do not change

    @property
    def _texts(self) -> tuple[bytes, ...]:
        return (self._certificate, self.private_key, self.authority)

    def __repr__(self) -> str:
        return "Credentials(...)"  # never the key

    @property
    def certificate(self) -> bytes:
        return self._certificate

    def renew(self, certificate: bytes) -> None:
        """Another certificate for the same key."""
        self._certificate = certificate
