"""The members of the fleet as they stand: certificates renewed before they end, and everybody told who has been expelled."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from fleet.background import Background, together
from fleet.devices.diagnosis import FleetDiagnosis
from fleet.trust.authority import CLOCK_SKEW, FIRST_RENEWAL, LAST_RENEWAL, Authority, Role
from fleet.trust.members import MemberRecord
from protos.errors import Conflict, Denied, FleetError, TemporaryError
from protos.ids import DeviceId
from protos.net.credentials import Credentials
from protos.net.transport import Peer
from protos.rpc_errors import remote
from protos.v1 import member_pb2 as pb

QUICK_SECONDS = 5.0
TELL_SECONDS = 1.5  # for all to hear that one is expelled
TOLD_AT_ONCE = 4096  # small calls: those of whom nothing comes back must not hold up the others
WATCH_SECONDS = 30.0  # between two looks at the clock: a timer stands still while the machine sleeps, certificates end all the same
_FIRST_PAUSE_SECONDS, _PAUSE_OF_LIFE = 1.0, 0.02

_log = logging.getLogger(__name__)


def due_in(seconds_left: float, life: timedelta, fraction: float) -> float:
    """Seconds until a certificate is renewed that has `seconds_left`: at this `fraction` of a life, at once when that is past, or when it
    would live longer than this fleet's do."""
    if seconds_left > life.total_seconds() + CLOCK_SKEW.total_seconds():
        return 0.0
    return max(0.0, seconds_left - (1 - fraction) * life.total_seconds())


class Upkeep:
    """An async context manager. `attached` is told of each connection to a member, for as long as which it is looked after.

    `own` is the folder of the coordinator's own certificate, `publisher` the public key whose models members are to run, `now` in unix
    seconds; `spread` gives the fraction of its life at which a certificate is renewed.
    """

    def __init__(
        self,
        authority: Authority,
        credentials: Credentials,
        own: Path,
        *,
        publisher: bytes,
        now: Callable[[], float],
        spread: Callable[[], float] = lambda: random.uniform(FIRST_RENEWAL, LAST_RENEWAL),  # nosec B311 # only spreads
    ) -> None:
        self._authority = authority
        self._credentials = credentials
        self._own = own
        self._publisher = publisher
        self._now = now
        self._spread = spread
        self._peers: dict[DeviceId, Peer] = {}
        self._tasks: dict[DeviceId, asyncio.Task[None]] = {}
        self._problems: dict[DeviceId, str] = {}  # why the last look after a member failed
        self._background = Background()

    async def __aenter__(self) -> Self:
        self._credentials.revoked.add(await asyncio.to_thread(self._authority.members.revoked))
        self._background.start(self._renew_own(), "renew the coordinator's certificate")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._background.__aexit__(kind, error, trace)

    def attached(self, member: DeviceId, peer: Peer | None) -> None:
        """There is a connection to it; None: not any more."""
        self.detached(member)
        if peer is None:
            return
        self._peers[member] = peer
        self._tasks[member] = self._background.start(self._look_after(member, peer), f"membership of {member}")

    def detached(self, member: DeviceId) -> None:
        """There is none any more."""
        self._peers.pop(member, None)
        if task := self._tasks.pop(member, None):
            task.cancel()

    async def members(self) -> list[MemberRecord]:
        """Of the fleet now, the newest first."""
        return [record for record in await asyncio.to_thread(self._authority.members.all) if not record.revoked]

    def explained(self, look: FleetDiagnosis) -> FleetDiagnosis:
        """With what stands in the way of members' next certificates."""
        return replace(look, devices=tuple(replace(one, renewal_problem=self._problem(one.device_id)) for one in look.devices))

    def _problem(self, member: str) -> str:
        return self._problems.get(DeviceId(member), "")

    async def revoke(self, member: DeviceId, name: str, cut: Callable[[], None] = lambda: None) -> None:
        """It is of the fleet no more, and everybody that can be reached knows within `TELL_SECONDS`; the others as soon as they can be.
        `cut` ends our own connection to it: called when that is written down and nobody here would dial it again."""
        await asyncio.to_thread(self._authority.members.revoke, member, name)
        self._credentials.revoked.add(await asyncio.to_thread(self._authority.members.revoked))
        self._problems.pop(member, None)
        cut()
        self.detached(member)
        others = list(self._peers.items())
        await together([self._tell_or_log(other, peer) for other, peer in others], at_once=TOLD_AT_ONCE)

    async def leave(self, member: DeviceId) -> bool:
        """Have it leave and wipe itself; False when it cannot be reached. Raises what it says."""
        peer = self._peers.get(member)
        if peer is None:
            return False
        with remote(member):
            await peer.member_stub.Leave(pb.LeaveRequest(), metadata=peer.metadata, timeout=QUICK_SECONDS)
        return True

    @property
    def _pause_seconds(self) -> float:
        return max(1.0, _PAUSE_OF_LIFE * self._authority.life.total_seconds())

    async def _look_after(self, member: DeviceId, peer: Peer) -> None:
        """Until the connection ends: then it is attached anew."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._tell(member, peer, QUICK_SECONDS)
                await self._introduce(member, peer)
                while True:
                    self._problems.pop(member, None)
                    await self._renew(member, peer)
                    pause_seconds = _FIRST_PAUSE_SECONDS
            except Conflict as error:
                self._problems[member] = error.detail
                _log.warning("%s cannot be given another certificate before its own ends: %s", member, error.detail)
                return
            except FleetError as error:
                if not isinstance(error, TemporaryError):  # it is away, or busy: that is told elsewhere
                    self._problems[member] = error.detail
                level = logging.INFO if isinstance(error, TemporaryError) else logging.WARNING
                _log.log(level, "membership of %s: %s%s", member, error.detail, f" ({error.advice})" if error.advice else "")
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, self._pause_seconds)

    async def _introduce(self, member: DeviceId, peer: Peer) -> None:
        """Tell whose models it is to run; one that has pinned another publisher goes on with that one's."""
        try:
            with remote(member):
                await peer.member_stub.Trust(pb.TrustRequest(publishers=[self._publisher]), metadata=peer.metadata, timeout=QUICK_SECONDS)
        except Denied as error:
            _log.warning("%s: %s (%s)", member, error.detail, error.advice)

    async def _renew(self, member: DeviceId, peer: Peer) -> None:
        """Once, when it is due."""
        with remote(member):
            asked = await peer.member_stub.Request(pb.CertificateRequest(), metadata=peer.metadata, timeout=QUICK_SECONDS)
        due = self._now() + due_in(asked.not_after - self._now(), self._authority.life, self._spread())
        while (left_seconds := due - self._now()) > 0:  # noqa: ASYNC110 - time itself tells nobody
            await asyncio.sleep(min(left_seconds, WATCH_SECONDS))
        known = await asyncio.to_thread(self._authority.members.find, member)
        role: Role = "gateway" if known is not None and known.role == "gateway" else "device"
        certificate = await asyncio.to_thread(self._authority.sign, asked.signing_request, role, member)
        with remote(member):
            await peer.member_stub.Renew(pb.RenewRequest(certificate=certificate), metadata=peer.metadata, timeout=QUICK_SECONDS)
        _log.info("renewed the certificate of %s", member)
        await asyncio.sleep(self._pause_seconds)  # whatever it says of the dates of its next one

    async def _tell_or_log(self, member: DeviceId, peer: Peer) -> None:
        try:
            await self._tell(member, peer, TELL_SECONDS)
        except FleetError as error:
            _log.warning("%s was not told yet who is expelled: %s", member, error.detail)
            if self._peers.get(member) is peer:
                self.attached(member, peer)  # it is told again and again

    async def _tell(self, member: DeviceId, peer: Peer, seconds: float) -> None:
        revoked = sorted(self._credentials.revoked.members)
        with remote(member):
            await peer.member_stub.Revoke(pb.RevokeRequest(members=revoked), metadata=peer.metadata, timeout=seconds)

    async def _renew_own(self) -> None:
        life = self._authority.life.total_seconds()
        while True:
            await asyncio.sleep(min(life * (1 - FIRST_RENEWAL) / 3, WATCH_SECONDS))
            await asyncio.to_thread(self._authority.issue_folder, self._own, "coordinator", "coordinator")
            certificate = await asyncio.to_thread((self._own / "certificate.pem").read_bytes)
            if certificate != self._credentials.certificate:
                self._credentials.renew(certificate)
                _log.info("renewed the coordinator's certificate")
