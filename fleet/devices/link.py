"""The standing connection to one device: dial, check who answers, listen to its telemetry, dial again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fleet.devices.client import DeviceClient
from fleet.devices.liveness import Liveness, Patience
from fleet.devices.record import Watched
from fleet.devices.redial import Redial
from protos.errors import FleetError
from protos.ids import DeviceId
from protos.net.transport import Credentials, Network, Peer
from protos.v1 import device_pb2 as pb

# Told of each connection to a member, and with None when it has ended.
Standing: TypeAlias = Callable[[DeviceId, Peer | None], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Reached:
    """The device, with what it says of itself."""

    client: DeviceClient
    description: pb.DeviceDescription

    async def close(self) -> None:
        await self.client.peer.close()


class DeviceLink:
    """`run` it as a task."""

    def __init__(
        self,
        device: DeviceId,
        where: Redial,
        watched: Watched,
        rules: Liveness,
        credentials: Credentials | None,
        network: Network,
        standing: Standing,
    ) -> None:
        self._device = device
        self._where = where
        self._watched = watched
        self._rules = rules
        self._credentials = credentials
        self._network = network
        self._standing = standing

    async def run(self) -> None:
        await self._where.run(self._reach, self._session, self._lost, lambda: self._watched.heard_at)

    async def sample(self) -> None:
        """Take a telemetry sample out of turn. Raises FleetError."""
        async with contextlib.aclosing(self._watched.client.watch_telemetry(self._rules.longest_wait_seconds)) as samples:
            self._watched.hear(await anext(samples))

    async def _reach(self, address: str) -> _Reached:
        """TLS proves who answers; without it, the device refuses a call for another."""
        peer = self._network.dial(address, self._device, self._credentials)
        client = DeviceClient(peer, self._watched.record.name)
        try:
            return _Reached(client, await client.describe())
        except BaseException:
            await peer.close()
            raise

    async def compare(self, addresses: Sequence[str]) -> None:
        """Whether another board answers with the same key at one of these. Ends without a word when nobody does, or the same board."""
        for address in addresses:
            with contextlib.suppress(FleetError):
                mine = await self._watched.client.describe()
                other = await self._reach(address)
                await other.close()
                if mine.boot_id == other.description.boot_id:
                    continue
                # One that started anew meanwhile looks like two: of two the first goes on as it was.
                if (await self._watched.client.describe()).boot_id == mine.boot_id:
                    self._watched.doubled(f"two boards show its key, at {self._where.address} and at {address}")
                    await self._watched.client.peer.close()
                    return

    async def _session(self, reached: _Reached) -> None:
        try:
            self._watched.attach(reached.client, reached.description)
            self._standing(self._device, reached.client.peer)
            await self._listen(reached.client)
        finally:
            self._standing(self._device, None)
            self._watched.detach()

    async def _listen(self, client: DeviceClient) -> None:
        asked = client.watch_telemetry(self._rules.interval_seconds, self._rules.beat_seconds)
        async with Patience(self._rules, self._watched.check) as patience, contextlib.aclosing(asked) as samples:
            with self._where.doubted_by(patience.doubt), self._watched.heard_by(lambda: patience.silence):
                async for sample in samples:
                    patience.heard(sample.beat_milliseconds)
                    self._watched.hear(sample)

    def _lost(self, error: FleetError) -> None:
        if self._watched.lost(error):
            _log.info("device %s: %s", self._watched.record.name, error.detail)
