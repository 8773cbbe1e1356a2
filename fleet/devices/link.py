"""The standing connection to one device: dial, check who answers, listen to its telemetry, dial again."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from fleet.devices.client import DeviceClient
from fleet.devices.liveness import Liveness
from fleet.devices.record import Watched
from fleet.devices.redial import Redial
from protos.errors import Denied, FleetError, InvalidInput, Unavailable
from protos.ids import DeviceId
from protos.link_failure import LinkFailure
from protos.net.transport import Credentials, Network

_ASK_DOCTOR = "glmfleet doctor"
_log = logging.getLogger(__name__)


class DeviceLink:
    """`run` it as a task."""

    def __init__(
        self, device: DeviceId, where: Redial, watched: Watched, rules: Liveness, credentials: Credentials | None, network: Network
    ) -> None:
        self._device = device
        self._where = where
        self._watched = watched
        self._rules = rules
        self._credentials = credentials
        self._network = network

    async def run(self) -> None:
        await self._where.run(self._session, self._lost, lambda: self._watched.heard_at)

    async def sample(self) -> None:
        """Take a telemetry sample out of turn. Raises FleetError."""
        async with contextlib.aclosing(self._watched.client.watch_telemetry(self._rules.longest_wait_seconds)) as samples:
            self._watched.hear(await anext(samples))

    async def _session(self, address: str) -> None:
        peer = self._network.dial(address, self._device, self._credentials)
        client = DeviceClient(peer, self._watched.record.name)
        try:
            self._watched.attach(client, await client.describe())
            await self._listen(client)
        finally:
            self._watched.detach()
            await peer.channel.close()

    async def _listen(self, client: DeviceClient) -> None:
        patience = self._rules.offline_seconds
        now = asyncio.get_running_loop().time
        try:
            async with (
                asyncio.timeout(patience) as deadline,
                contextlib.aclosing(client.watch_telemetry(self._rules.interval_seconds)) as samples,
            ):
                async for sample in samples:
                    self._watched.hear(sample)
                    deadline.reschedule(now() + patience)
        except TimeoutError:
            raise Unavailable(f"no telemetry for {patience:.0f} s") from None

    def _lost(self, error: FleetError) -> None:
        name = self._watched.record.name
        said = explained(error, self._where.address)
        if self._watched.lost(said):
            _log.info("device %s at %s: %s", name, self._where.address, said.detail)


def explained(error: FleetError, address: str) -> FleetError:
    """Why there is no connection to `address`, without the device's name: it is shown beside the device."""
    match error.link_failure:
        case LinkFailure.ANOTHER_MEMBER:
            return Denied(f"another device answers at {address}")
        case LinkFailure.ANOTHER_AUTHORITY:
            return Denied(f"TLS with {address} failed: another fleet's device answers there", advice=_ASK_DOCTOR)
        case LinkFailure.NOT_VALID_NOW:
            return Denied(f"TLS with {address} failed: its certificate has expired, or is not valid yet", advice=_ASK_DOCTOR)
        case LinkFailure.TLS:
            return Denied(f"TLS with {address} failed: is it a device, and not --insecure?", advice=_ASK_DOCTOR)
        case LinkFailure.REFUSED:
            return Unavailable(f"nobody listens at {address}")
    if isinstance(error, InvalidInput):
        return InvalidInput(f"{address}: {error.cause}")
    return type(error)(" ".join(error.cause.split())[:200], advice=error.advice)
