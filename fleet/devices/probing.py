"""A closer look at every device: asked what it knows of itself, or why it does not answer, and whether multicast gets there and back."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress

from fleet.background import set_within, together
from fleet.devices.diagnosis import DeviceDiagnosis, Multicast
from fleet.devices.discovery import Discovery
from fleet.devices.reach import attempt
from fleet.devices.record import DeviceRecord
from fleet.devices.registry import Registry
from protos.errors import FleetError
from protos.ids import DeviceId
from protos.net.credentials import Credentials
from protos.net.ear import PROBE_CHARACTERS, Ear, Heard
from protos.v1 import device_pb2 as pb

AT_ONCE = 64
MOST_UNREACHED = 64  # of those that are not connected: each takes seconds
MOST_ADDRESSES = 4  # of one of them
MOST_HEARD = 10_000  # ids that answer: they cost nothing to forge
SENDS, APART_SECONDS, LISTEN_SECONDS = 2, 0.4, 1.5  # multicast is lost now and then; a responder may wait half a second


class Probe:
    """`send` asks everybody over mDNS and listens; `multicast` says what became of it."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self._number = secrets.token_hex(PROBE_CHARACTERS // 2)
        self._answered: dict[str, set[str]] = defaultdict(set)  # our interfaces, by device
        self._expected: set[str] = set()
        self._all = asyncio.Event()  # who is expected has answered
        self._ear = Ear(self._note)
        self.interfaces: tuple[str, ...] = ()

    async def send(self, expected: Sequence[DeviceId]) -> None:
        """Until these have answered, or the time is over."""
        where = self._discovery.browsed
        self._ear.follow(where)
        try:
            self.interfaces = tuple(dict.fromkeys(map(str, where))) if self._ear.listens else ()
            self._expected = set(expected)
            deadline = time.monotonic() + LISTEN_SECONDS
            for _ in range(SENDS):
                if not self.interfaces or not self._discovery.send_probe(self._number):
                    self.interfaces = ()
                    return
                await asyncio.sleep(APART_SECONDS)
            await set_within(self._all, deadline - time.monotonic())
        finally:
            self._ear.close()

    def multicast(self, device: DeviceId, told: pb.DeviceDescription | None) -> Multicast | None:
        """`told`: what the device says after the probe. None: nothing was tried."""
        if not self.interfaces:
            return None
        heard_on = tuple(sorted(self._answered.get(device, ())))
        there = [query.interface for query in told.hearing.queries if query.probe == self._number] if told is not None else []
        return Multicast(
            hears_us=bool(there) if told is not None and told.HasField("hearing") else None,
            hears_on=tuple(sorted(set(there))),
            heard=bool(heard_on),
            heard_on=heard_on,
            advertised=device in self._discovery.advertised,
        )

    def _note(self, heard: Heard) -> None:
        for device in heard.devices:
            if len(self._answered) < MOST_HEARD or device in self._answered:
                self._answered[device].add(heard.interface)
        if self._answered.keys() >= self._expected:
            self._all.set()


async def look_closely(
    registry: Registry, discovery: Discovery, credentials: Credentials | None, now: Callable[[], float]
) -> tuple[tuple[str, ...], tuple[DeviceDiagnosis, ...]]:
    """(the interfaces by which mDNS was tried, what was found of each device that no gateway speaks for). Takes seconds."""
    records = [record for record in registry.records() if record.gateway is None]
    probe = Probe(discovery)
    await probe.send([record.device_id for record in records if record.connected])
    unreached = [record for record in records if not record.connected][:MOST_UNREACHED]
    asked = {record.device_id for record in unreached}

    async def one(record: DeviceRecord) -> DeviceDiagnosis:
        if record.connected:
            with suppress(FleetError):
                return await _ask(registry, record, probe, now)
        tried = record.addresses[:MOST_ADDRESSES] if record.device_id in asked else ()
        found = await together([attempt(address, record.device_id, credentials, now()) for address in tried], at_once=MOST_ADDRESSES)
        multicast = probe.multicast(record.device_id, None)
        return DeviceDiagnosis(record.device_id, record.name, attempts=tuple(found), multicast=multicast)

    return probe.interfaces, tuple(await together([one(record) for record in records], at_once=AT_ONCE))


async def _ask(registry: Registry, record: DeviceRecord, probe: Probe, now: Callable[[], float]) -> DeviceDiagnosis:
    """Raises FleetError."""
    started, begun = now(), time.perf_counter()
    told = await registry.client(record.device_id).describe()
    took = time.perf_counter() - begun
    return DeviceDiagnosis(
        record.device_id,
        record.name,
        clock_ahead_seconds=told.clock_seconds - (started + took / 2) if told.clock_seconds else None,
        round_trip_seconds=took,
        certificate_seconds=told.certificate_not_after - started if told.certificate_not_after else None,
        storage_free_bytes=told.storage_free_bytes,
        memory_available_bytes=told.memory_available_bytes if told.HasField("memory_available_bytes") else None,
        memory_promised_bytes=max(0, told.memory_bytes - told.memory_used_bytes),
        multicast=probe.multicast(record.device_id, told),
    )
