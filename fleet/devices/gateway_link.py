"""The standing connection to one gateway: learn which devices are behind it, listen to the telemetry of all of them in one stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from fleet.devices.client import DeviceClient
from fleet.devices.link import Standing
from fleet.devices.liveness import Liveness, Patience
from fleet.devices.record import US, Watched
from fleet.devices.redial import Redial
from fleet.devices.views import GatewayView
from protos.errors import FleetError, TimedOut, Unavailable
from protos.ids import DeviceId, member_id
from protos.net.transport import Credentials, Network, Peer
from protos.rpc_errors import remote
from protos.silence import Silence, milliseconds
from protos.v1 import gateway_pb2 as pb
from protos.v1 import telemetry_pb2
from protos.versions import in_common

MEMBERS = 20_000  # remembered of one gateway: those beyond are told of, and passed over
ROUND_SECONDS = 10.0  # one round out of turn: a thousand devices take about 0.1 s
NAME_LENGTH = 128

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Reached:
    """The gateway, and what it tells: the first report has come."""

    peer: Peer
    told: AsyncGenerator[pb.GatewayReport, None]
    first: pb.GatewayReport = field(default_factory=pb.GatewayReport)

    async def close(self) -> None:
        await self.told.aclose()
        await self.peer.close()


class GatewayLink:
    """`run` it as a task; `check` it as time passes. `members` are the devices that it has told of; what else it says is not believed."""

    def __init__(
        self,
        gateway: DeviceId,
        where: Redial,
        rules: Liveness,
        credentials: Credentials | None,
        network: Network,
        *,
        clock: Callable[[], float],
        take_sample: Callable[[telemetry_pb2.TelemetrySample], None],
        changed: Callable[[], None],
        standing: Standing,
    ) -> None:
        self.members: dict[DeviceId, Watched] = {}
        self._gateway = gateway
        self._where = where
        self._rules = rules
        self._credentials = credentials
        self._network = network
        self._clock = clock
        self._take_sample = take_sample
        self._changed = changed
        self._standing = standing
        self._name = ""
        self._detail = "it has not answered yet"
        self._overfull = False
        self._refused: set[DeviceId] = set()  # members that contradict themselves
        self._heard_at: float | None = None
        self._patience: Patience | None = None  # while it is connected
        self._peer: Peer | None = None

    @property
    def view(self) -> GatewayView:
        return GatewayView(
            gateway_id=self._gateway,
            name=self._name or self._gateway,
            address=self._where.address,
            connected=self._peer is not None,
            devices=len(self.members),
            online=sum(member.state == "online" for member in self.members.values()),
            found_by=self._where.found_by,
            detail=self._detail or (f"its devices beyond {MEMBERS} are passed over" if self._overfull else ""),
        )

    async def run(self) -> None:
        await self._where.run(self._reach, self._session, self._lost, lambda: self._heard_at)

    async def round(self) -> None:
        """Have every member's description and a sample of it now, not at the next interval. Raises FleetError."""
        if self._peer is None:
            raise Unavailable(f"gateway {self._name or self._gateway}: {self._detail}")
        try:
            async with (
                asyncio.timeout(ROUND_SECONDS),
                contextlib.aclosing(self._watch(self._peer, self._rules.longest_wait_seconds)) as told,
            ):
                async for report in told:
                    self._take(self._peer, report)
                    if report.round_complete:
                        return
        except TimeoutError:
            raise TimedOut(f"gateway {self._name}: it did not tell of all its devices in {ROUND_SECONDS:.0f} s") from None

    def check(self) -> None:
        """Let silence tell. A member that is silent for too long is taken for gone from its gateway, until it is heard again."""
        now = self._clock()
        for member in self.members.values():
            if member.connected and member.heard_at is not None and now - member.heard_at >= self._rules.offline_seconds:
                member.detach()
                member.lost(Unavailable(f"no telemetry for {now - member.heard_at:.0f} s"))
            member.check()

    async def _reach(self, address: str) -> _Reached:
        peer = self._network.dial(address, self._gateway, self._credentials, self._gateway)
        told = self._watch(peer, self._rules.interval_seconds, self._rules.beat_seconds)
        try:
            async with asyncio.timeout(self._rules.offline_seconds):
                return _Reached(peer, told, await anext(told))
        except TimeoutError:
            await _Reached(peer, told).close()
            raise Unavailable(f"no telemetry for {self._rules.offline_seconds:.0f} s") from None
        except BaseException:
            await _Reached(peer, told).close()
            raise

    async def _session(self, reached: _Reached) -> None:
        self._peer, self._detail = reached.peer, ""
        self._standing(self._gateway, reached.peer)
        try:
            async with Patience(self._rules, self.check) as self._patience:
                with self._where.doubted_by(self._patience.doubt):
                    report = reached.first
                    while True:
                        self._heard_at = self._clock()
                        self._take(reached.peer, report)
                        self._patience.heard(report.beat_milliseconds)
                        report = await anext(reached.told)
        finally:
            self._standing(self._gateway, None)
            self._peer = self._patience = None
            for member in self.members.values():
                member.detach()

    async def _watch(self, peer: Peer, interval_seconds: float, beat_seconds: float = 0.0) -> AsyncGenerator[pb.GatewayReport, None]:
        """Reports until the link ends, which raises; with beats between them, which report nothing. Close the iterator to leave."""
        name = self._name or self._gateway
        with remote(name):
            request = pb.WatchGatewayRequest(interval_seconds=interval_seconds, beat_milliseconds=milliseconds(beat_seconds))
            call = peer.gateway_stub.Watch(request, metadata=peer.metadata)
            try:
                async for report in call:
                    yield report
            finally:
                call.cancel()
        raise Unavailable("the gateway ended its telemetry").at(name)

    def _take(self, peer: Peer, report: pb.GatewayReport) -> None:
        name = report.name[:NAME_LENGTH]
        in_common(report, f"gateway {name}", US)
        self._name = name
        for told in report.members:
            self._meet(peer, told)
        for sample in report.samples:
            # Only its own: a sample in another device's name finds no member.
            member = self.members.get(DeviceId(sample.device_id))
            if member is not None and sample.device_id not in self._refused:
                if not member.connected:
                    member.reattach(self._client(peer, DeviceId(sample.device_id)))
                member.hear(sample)
        for name in report.gone:
            device = member_id(self._gateway, name)
            self._refused.discard(device)
            if self.members.pop(device, None) is not None:
                self._changed()

    def _meet(self, peer: Peer, told: pb.GatewayMember) -> None:
        device = member_id(self._gateway, told.local_name)
        member = self.members.get(device)
        if member is None:
            if len(self.members) >= MEMBERS:
                self._overfull = True
                return
            member = Watched(device, self._where, self._rules, self._clock, self._take_sample, self._changed, self._gateway, self._silence)
            self.members[device] = member
        try:
            member.attach(self._client(peer, device), told.description)
            self._refused.discard(device)
        except FleetError as error:
            self._refused.add(device)
            member.detach()
            if member.lost(error):
                _log.info("device %s behind gateway %s: %s", device, self._name, error.detail)

    def _silence(self) -> Silence | None:
        return None if self._patience is None else self._patience.silence

    @staticmethod
    def _client(peer: Peer, device: DeviceId) -> DeviceClient:
        return DeviceClient(peer.to(device), device)

    def _lost(self, error: FleetError) -> None:
        if self._detail != error.detail:
            _log.info("gateway %s: %s", self._name or self._gateway, error.detail)
        self._detail = error.detail
        behind = type(error)(f"its gateway {self._name}: {error.detail}", advice=error.advice)
        for member in self.members.values():
            member.lost(behind)
