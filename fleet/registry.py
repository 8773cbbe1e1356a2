"""All devices of the fleet as the coordinator sees them now: one standing connection to each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from types import TracebackType
from typing import Self

from fleet.background import Background, together
from fleet.device_client import DeviceClient
from fleet.device_link import DeviceLink, DeviceRecord
from fleet.liveness import Liveness
from protos.errors import FleetError, InvalidInput, NotFound, TimedOut
from protos.ids import DeviceId
from protos.transport import Credentials
from protos.v1 import telemetry_pb2

DEFAULT_LIVENESS = Liveness()
ASKED_AT_ONCE = 64
SAMPLE_SECONDS = 1.0


class Registry:
    """An async context manager: connections stand from entry to exit. All else is called from its event loop."""

    def __init__(
        self,
        credentials: Credentials | None,
        take_sample: Callable[[telemetry_pb2.TelemetrySample], None],
        *,
        rules: Liveness = DEFAULT_LIVENESS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = credentials
        self._take_sample = take_sample
        self._rules = rules
        self._clock = clock
        self._links: dict[DeviceId, tuple[DeviceLink, asyncio.Task[None]]] = {}
        self._departed: set[DeviceId] = set()
        self._background = Background()
        self._changes = 0
        self._change = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._background.start(self._tick(), "watch for silent devices")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._background.__aexit__(kind, error, trace)

    def found(self, device: DeviceId, address: str, found_by: str) -> None:
        """Discovery saw it. A hint: the device is shown, and counts once it has proven who it is."""
        self._departed.discard(device)
        if device in self._links:
            self._links[device][0].found(address, found_by)
            return
        link = DeviceLink(
            device,
            address,
            found_by,
            credentials=self._credentials,
            rules=self._rules,
            clock=self._clock,
            take_sample=self._take_sample,
            changed=self._tell,
        )
        self._links[device] = (link, self._background.start(link.run(), f"device {device}"))
        self._tell()

    def gone(self, device: DeviceId) -> None:
        """Discovery heard its goodbye. A hint: one that never answered is forgotten; of the others the connection knows better."""
        if device in self._links:
            self._departed.add(device)
            if self._links[device][0].record.description is None:
                self._forget(device)

    def forget_departed(self, needed: Collection[DeviceId]) -> None:
        """Drop those that said goodbye and are offline, unless somebody waits for them: a fleet that was taken down is not a fault."""
        for device in self._departed - set(needed):
            if self._links[device][0].record.state == "offline":
                self._forget(device)

    def records(self) -> list[DeviceRecord]:
        """By name."""
        return sorted((link.record for link, _ in self._links.values()), key=lambda record: (record.name, record.device_id))

    def record(self, device: DeviceId) -> DeviceRecord | None:
        return self._links[device][0].record if device in self._links else None

    def find(self, name_or_id: str) -> DeviceRecord:
        """Raises NotFound listing the devices, InvalidInput when two have this name."""
        records = self.records()
        found = [record for record in records if name_or_id in (record.device_id, record.name)]
        if len(online := [record for record in found if record.state == "online"]) == 1:
            found = online  # the others are its predecessors, of a name that was given again
        if len(found) > 1:
            raise InvalidInput(f"{len(found)} devices are called {name_or_id!r}", advice="use the id, see `glmfleet devices`")
        if not found:
            known = ", ".join(record.name for record in records[:20])
            raise NotFound(f"no device {name_or_id!r}", advice=f"devices: {known}" if known else "no device was found yet: glmfleet doctor")
        return found[0]

    def client(self, device: DeviceId) -> DeviceClient:
        """Raises NotFound for a device never seen, Unavailable while there is no connection."""
        if device not in self._links:
            raise NotFound(f"device {device} was not found yet", advice="glmfleet doctor tells what was tried")
        return self._links[device][0].client

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

        async def one(link: DeviceLink) -> None:
            with contextlib.suppress(FleetError):
                await link.refresh()

        await together([one(self._links[device][0]) for device in devices if device in self._links], at_once=ASKED_AT_ONCE)

    async def sample(self) -> None:
        """Have a sample from every connected device now, not at the next interval; those that take over a second are passed over."""

        async def one(link: DeviceLink) -> None:
            with contextlib.suppress(FleetError, TimeoutError):
                async with asyncio.timeout(SAMPLE_SECONDS):
                    await link.sample()

        await together([one(link) for link, _ in list(self._links.values()) if link.record.connected], at_once=ASKED_AT_ONCE)

    @property
    def changes(self) -> int:
        """Counts what happened: pass it to `changed_since`."""
        return self._changes

    async def changed_since(self, changes: int) -> None:
        while self._changes <= changes:
            await self._change.wait()

    async def wait_online(self, count: int, timeout_seconds: float) -> None:
        """Until `count` devices are online. Raises TimedOut."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    changes = self._changes
                    if self._online() >= count:
                        return
                    await self.changed_since(changes)
        except TimeoutError:
            raise TimedOut(
                f"{self._online()} of {count} devices are online after {timeout_seconds:.0f} s",
                advice="glmfleet doctor tells what was tried",
            ) from None

    def _forget(self, device: DeviceId) -> None:
        self._departed.discard(device)
        _, task = self._links.pop(device)
        task.cancel()
        self._tell()

    def _online(self) -> int:
        return sum(link.record.state == "online" for link, _ in self._links.values())

    def _tell(self) -> None:
        self._changes += 1
        self._change.set()
        self._change = asyncio.Event()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._rules.interval_seconds)
            for link, _ in list(self._links.values()):
                link.check()
