"""All devices of the fleet as the coordinator sees them now: one standing connection to each device, or to the gateway before it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self

from fleet.background import Background, together
from fleet.devices.client import DeviceClient
from fleet.devices.gateway_link import ROUND_SECONDS, GatewayLink
from fleet.devices.link import DeviceLink, Standing
from fleet.devices.liveness import Liveness
from fleet.devices.record import DeviceRecord, Watched
from fleet.devices.redial import Redial
from fleet.devices.views import GatewayView
from protos.errors import FleetError, InvalidInput, NotFound
from protos.ids import DeviceId
from protos.net import transport
from protos.net.transport import Credentials, Network, Peer
from protos.v1 import device_pb2 as pb
from protos.v1 import telemetry_pb2

DEFAULT_LIVENESS = Liveness()
ASKED_AT_ONCE = 64
SAMPLE_SECONDS = 1.0
COMPARED = 4  # other addresses of a device that is connected
ASKED_ONE_BY_ONE = 16  # of a gateway's devices; more are asked together


@dataclass(frozen=True)
class _Direct:
    """A device that answers for itself."""

    where: Redial
    watched: Watched
    link: DeviceLink
    task: asyncio.Task[None]


@dataclass(frozen=True)
class _Gateway:
    where: Redial
    link: GatewayLink
    task: asyncio.Task[None]


class Registry:
    """An async context manager: connections stand from entry to exit. All else is called from its event loop."""

    def __init__(
        self,
        credentials: Credentials | None,
        take_sample: Callable[[telemetry_pb2.TelemetrySample], None],
        *,
        rules: Liveness = DEFAULT_LIVENESS,
        clock: Callable[[], float] = time.monotonic,
        network: Network = transport,
        proven: Callable[[DeviceId, str], None] = lambda _device, _address: None,
        standing: Standing = lambda _member, _peer: None,
    ) -> None:
        """`proven` is told where the key of a device or gateway has answered, `standing` of each connection to one."""
        self._standing = standing
        self._proven = proven
        self._credentials = credentials
        self._record_sample = take_sample
        self._silent: dict[str, frozenset[str]] = {}  # by device: of whom it hears nothing
        self._rules = rules
        self._clock = clock
        self._network = network
        self._direct: dict[DeviceId, _Direct] = {}
        self._gateways: dict[DeviceId, _Gateway] = {}
        self._departed: set[DeviceId] = set()  # gateways that said goodbye
        self._draining: frozenset[DeviceId] = frozenset()
        self._background = Background()
        self._changes = 0
        self._change = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._background.start(self._tick(), "watch for silent devices")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._background.__aexit__(kind, error, trace)

    def found(self, device: DeviceId, addresses: tuple[str, ...], found_by: str) -> None:
        """Discovery saw it, at any of these "host:port". A hint: the device is shown, and counts once it has proven who it is."""
        if device in self._direct:
            known = self._direct[device]
            known.watched.said_goodbye = False
            elsewhere = [address for address in addresses if address not in known.where.addresses]
            known.where.found(addresses, found_by)
            if known.watched.connected:
                self._compare(device, elsewhere)
            return
        where = Redial(addresses, found_by, self._rules, partial(self._proven, device))
        watched = Watched(device, where, self._rules, self._clock, self._take_sample, self._tell)
        link = DeviceLink(device, where, watched, self._rules, self._credentials, self._network, self._stands)
        self._direct[device] = _Direct(where, watched, link, self._background.start(link.run(), f"device {device}"))
        self._tell()

    def found_gateway(self, gateway: DeviceId, addresses: tuple[str, ...], found_by: str) -> None:
        """As `found`; what is behind it is shown when it has told."""
        self._departed.discard(gateway)
        if gateway in self._gateways:
            self._gateways[gateway].where.found(addresses, found_by)
            return
        where = Redial(addresses, found_by, self._rules, partial(self._proven, gateway))
        link = GatewayLink(
            gateway,
            where,
            self._rules,
            self._credentials,
            self._network,
            clock=self._clock,
            take_sample=self._take_sample,
            changed=self._tell,
            standing=self._standing,
        )
        self._gateways[gateway] = _Gateway(where, link, self._background.start(link.run(), f"gateway {gateway}"))
        self._tell()

    def gone(self, device: DeviceId) -> None:
        """Discovery heard its goodbye. A hint: one that never answered is forgotten; of the others the connection knows better."""
        if device in self._direct:
            self._direct[device].watched.goodbye()
            self._direct[device].where.doubt()
            if self._direct[device].watched.phase(wanted=True).forget:
                self._forget(device)
        elif device in self._gateways:
            self._departed.add(device)
            if not self._gateways[device].link.members:
                self._forget(device)

    def knows(self, device: DeviceId) -> bool:
        """A device or gateway that is dialled again and again."""
        return device in self._direct or device in self._gateways

    def expel(self, member: DeviceId) -> None:
        """It is of the fleet no more: the connection to it ends."""
        if member in self._direct or member in self._gateways:
            self._forget(member)

    def removed(self, member: DeviceId) -> bool:
        """It was taken out of the fleet: with its key it does not come back."""
        return self._credentials is not None and member in self._credentials.revoked

    def drain(self, devices: Collection[DeviceId]) -> None:
        """From now on these are to be switched off, and no others."""
        self._draining = frozenset(devices)
        self._tell()

    def _marked(self, record: DeviceRecord) -> DeviceRecord:
        return replace(record, draining=True) if record.device_id in self._draining else record

    def network_changed(self) -> None:
        """This machine's addresses are others now: whoever is away is tried again at once, and who is there has to show it."""
        for where in [*(one.where for one in self._direct.values()), *(one.where for one in self._gateways.values())]:
            where.doubt()

    @property
    def unreached(self) -> list[DeviceId]:
        """Devices and gateways that were dialled in vain."""
        direct = [device for device, one in self._direct.items() if one.where.unreached]
        return direct + [gateway for gateway, one in self._gateways.items() if one.where.unreached]

    def forget_departed(self, needed: Collection[DeviceId]) -> None:
        """Drop those that said goodbye and are offline, unless somebody waits for them: a fleet that was taken down is not a fault."""
        wanted = set(needed)
        for device, one in list(self._direct.items()):
            if one.watched.phase(wanted=device in wanted).forget:
                self._forget(device)
        for gateway in list(self._departed):
            members = self._gateways[gateway].link.members
            if members.keys().isdisjoint(wanted) and all(member.state == "offline" for member in members.values()):
                self._forget(gateway)

    def records(self) -> list[DeviceRecord]:
        """By name."""
        return sorted((self._marked(watched.record) for watched in self._all()), key=lambda record: (record.name, record.device_id))

    def gateways(self) -> list[GatewayView]:
        """By name."""
        return sorted((one.link.view for one in self._gateways.values()), key=lambda view: (view.name, view.gateway_id))

    def record(self, device: DeviceId) -> DeviceRecord | None:
        watched = self._watched(device)
        return self._marked(watched.record) if watched else None

    def description(self, device: DeviceId) -> pb.DeviceDescription | None:
        """What it said of itself last; asked for each sample, so without the rest of its record."""
        watched = self._watched(device)
        return watched.description if watched else None

    def find(self, name_or_id: str) -> DeviceRecord:
        """Raises NotFound listing the devices, InvalidInput when two have this name."""
        records = self.records()
        found = [record for record in records if name_or_id in (record.device_id, record.name)]
        if len(online := [record for record in found if record.state == "online"]) == 1:
            found = online  # the others are its predecessors, of a name that was given again
        if len(found) > 1:
            ids = ", ".join(record.device_id for record in found)
            raise InvalidInput(f"{len(found)} devices are called {name_or_id!r}", advice=f"use an id: {ids}")
        if not found:
            known = ", ".join(record.name for record in records[:20])
            raise NotFound(f"no device {name_or_id!r}", advice=f"devices: {known}" if known else "no device was found yet: glmfleet doctor")
        return found[0]

    def client(self, device: DeviceId) -> DeviceClient:
        """Raises NotFound for a device never seen, Unavailable while there is no connection."""
        watched = self._watched(device)
        if watched is None and self.removed(device):
            raise NotFound(f"device {device} was removed from the fleet")
        if watched is None:
            raise NotFound(f"device {device} was not found yet", advice="glmfleet doctor shows what was tried")
        return watched.client

    async def wait_connected(self, devices: Sequence[DeviceId], timeout_seconds: float) -> bool:
        """Until there is a connection to each of these. False when that is not so in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    changes = self._changes
                    if all((record := self.record(device)) is not None and record.connected for device in devices):
                        return True
                    await self.changed_since(changes)
        except TimeoutError:
            return False

    async def refresh(self, devices: Iterable[DeviceId]) -> None:
        """Ask these what they hold now; those that do not answer keep their last description."""
        asked = set(devices)
        rounds = []
        for gateway in self._gateways.values():
            behind = asked & gateway.link.members.keys()
            if len(behind) > ASKED_ONE_BY_ONE:
                rounds.append(_unless_it_fails(gateway.link.round(), ROUND_SECONDS))
                asked -= behind
        single = [_describe(watched) for device in sorted(asked) if (watched := self._watched(device)) is not None]
        await together([*rounds, *single], at_once=ASKED_AT_ONCE)

    async def sample(self) -> None:
        """Have a sample from every connected device now, not at the next interval; those that take over a second are passed over."""
        links = [one.link.sample() for one in self._direct.values() if one.watched.connected]
        rounds = [one.link.round() for one in self._gateways.values()]
        await together([_unless_it_fails(one, SAMPLE_SECONDS) for one in [*rounds, *links]], at_once=ASKED_AT_ONCE)

    @property
    def changes(self) -> int:
        """Counts what happened: pass it to `changed_since`."""
        return self._changes

    async def changed_since(self, changes: int) -> None:
        while self._changes <= changes:
            await self._change.wait()

    async def changed_within(self, changes: int, seconds: float) -> bool:
        """As `changed_since`; False when nothing happened in time, or no time is left."""
        if seconds <= 0:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self.changed_since(changes)
        except TimeoutError:
            return False
        return True

    def _stands(self, device: DeviceId, peer: Peer | None) -> None:
        """Of a device. At its other addresses another may answer, which came at the same time."""
        self._standing(device, peer)
        if peer is not None and (known := self._direct.get(device)) is not None:
            self._compare(device, [address for address in known.where.addresses if address != known.where.address])

    def _compare(self, device: DeviceId, elsewhere: Sequence[str]) -> None:
        if elsewhere and self._credentials is not None:
            self._background.start(self._direct[device].link.compare(elsewhere[:COMPARED]), f"is {device} there twice?")

    def _forget(self, device: DeviceId) -> None:
        self._departed.discard(device)
        forgotten = self._direct.pop(device, None) or self._gateways.pop(device)
        forgotten.task.cancel()
        self._tell()

    def _watched(self, device: DeviceId) -> Watched | None:
        behind = next((found for one in self._gateways.values() if (found := one.link.members.get(device)) is not None), None)
        return self._direct[device].watched if behind is None and device in self._direct else behind

    def _all(self) -> Iterator[Watched]:
        """Whom a gateway vouches for has no key of its own: an advert in its name is somebody else's, and must not stand before it."""
        behind = {device: watched for gateway in self._gateways.values() for device, watched in gateway.link.members.items()}
        yield from (one.watched for device, one in self._direct.items() if device not in behind)
        yield from behind.values()

    def _take_sample(self, sample: telemetry_pb2.TelemetrySample) -> None:
        """What it says of its neighbours is on their record: they are suspected by it alone, whom we hear ourselves."""
        self._record_sample(sample)
        silent = frozenset(neighbour for pipeline in sample.pipelines for neighbour in pipeline.silent_neighbours)
        before = self._silent.pop(sample.device_id, frozenset())
        if silent:
            self._silent[sample.device_id] = silent
        for neighbour in silent - before:
            if (watched := self._watched(DeviceId(neighbour))) is not None:
                by = self._watched(DeviceId(sample.device_id))
                watched.note(f"{by.record.name if by else sample.device_id} hears nothing of it")

    def _tell(self) -> None:
        self._changes += 1
        self._change.set()
        self._change = asyncio.Event()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._rules.interval_seconds)
            for one in self._direct.values():
                one.watched.check()
            for gateway in self._gateways.values():
                gateway.link.check()


async def _unless_it_fails(work: Awaitable[None], seconds: float) -> None:
    with contextlib.suppress(FleetError, TimeoutError):
        async with asyncio.timeout(seconds):
            await work


async def _describe(watched: Watched) -> None:
    with contextlib.suppress(FleetError):
        watched.accept(await watched.client.describe())
