"""The standing connection to one device: dial, check who answers, listen to its telemetry, dial again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from fleet.background import set_within
from fleet.device_client import DeviceClient
from fleet.liveness import Liveness
from fleet.views import DeviceState
from protos.errors import Conflict, Denied, FleetError, InvalidInput, PermanentError, Unavailable
from protos.ids import PROTOCOL_VERSION, DeviceId
from protos.transport import Credentials, dial
from protos.v1 import device_pb2 as pb
from protos.v1 import telemetry_pb2

ADDRESSES = 4  # remembered per device: several interfaces, a new lease

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceRecord:
    """What is known of a device now. `description` is the last one it gave; None when it never answered."""

    device_id: DeviceId
    address: str
    found_by: str
    state: DeviceState
    detail: str
    connected: bool
    description: pb.DeviceDescription | None

    @property
    def name(self) -> str:
        return self.description.name if self.description and self.description.name else self.device_id


class DeviceLink:
    """`run` it as a task; `check` it as time passes. Tells of every change of state and every sample."""

    def __init__(
        self,
        device: DeviceId,
        address: str,
        found_by: str,
        *,
        credentials: Credentials | None,
        rules: Liveness,
        clock: Callable[[], float],
        take_sample: Callable[[telemetry_pb2.TelemetrySample], None],
        changed: Callable[[], None],
    ) -> None:
        self._device = device
        self._found: dict[str, str] = {address: found_by}  # address -> by whom, the next to try last
        self._address = address
        self._credentials = credentials
        self._rules = rules
        self._clock = clock
        self._take_sample = take_sample
        self._changed = changed
        self._woken = asyncio.Event()
        self._client: DeviceClient | None = None
        self._description: pb.DeviceDescription | None = None
        self._heard_at: float | None = None
        self._state: DeviceState = "offline"
        self._detail = "it has not answered yet"

    @property
    def record(self) -> DeviceRecord:
        found_by = self._found.get(self._address, "")
        return DeviceRecord(self._device, self._address, found_by, self._state, self._detail, self._client is not None, self._description)

    @property
    def client(self) -> DeviceClient:
        """Raises Unavailable while there is no connection."""
        if self._client is None:
            raise Unavailable(f"{self.record.name}: {self._detail or 'the device is not connected'}")
        return self._client

    def found(self, address: str, found_by: str) -> None:
        """It was seen there (again): an address to try next, at once if the device is not connected now."""
        self._found.pop(address, None)
        self._found[address] = found_by
        while len(self._found) > ADDRESSES:
            del self._found[next(iter(self._found))]
        self._woken.set()

    def check(self) -> None:
        """Let silence tell."""
        self._settle()

    async def refresh(self) -> None:
        """Ask the device again what it is and holds. Raises FleetError."""
        self._accept(await self.client.describe())

    async def sample(self) -> None:
        """Take a telemetry sample out of turn. Raises FleetError."""
        async with contextlib.aclosing(self.client.watch_telemetry(self._rules.longest_wait_seconds)) as samples:
            self._hear(await anext(samples))

    async def run(self) -> None:
        failures = 0
        while True:
            self._woken.clear()
            self._address = next(reversed(self._found))
            heard_before = self._heard_at
            try:
                await self._session()
            except FleetError as error:
                self._lost(_explained(error, self._address, self.record.name))
            failures = failures + 1 if self._heard_at == heard_before else 0
            if failures and self._address in self._found:  # another address has its turn
                self._found = {self._address: self._found.pop(self._address), **self._found}
            await set_within(self._woken, self._rules.wait_seconds(failures))

    async def _session(self) -> None:
        peer = dial(self._address, self._device, self._credentials)
        client = DeviceClient(peer, self.record.name)
        try:
            description = await client.describe()
            client.name = description.name or self._device
            self._client = client
            self._accept(description)
            await self._listen(client)
        finally:
            self._client = None
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
                    self._hear(sample)
                    deadline.reschedule(now() + patience)
        except TimeoutError:
            raise Unavailable(f"no telemetry for {patience:.0f} s") from None

    def _accept(self, description: pb.DeviceDescription) -> None:
        if description.protocol_version != PROTOCOL_VERSION:
            raise Conflict(
                f"{description.name}: it speaks protocol {description.protocol_version}, this coordinator {PROTOCOL_VERSION}",
                advice="update the older of the two",
            )
        if description.device_id != self._device:
            raise Denied(f"{description.name}: it says that it is {description.device_id}, not {self._device}")
        before, self._description = self._description, description
        if before is None or before.boot_id != description.boot_id or list(before.stages) != list(description.stages):
            self._changed()

    def _hear(self, sample: telemetry_pb2.TelemetrySample) -> None:
        self._heard_at = self._clock()
        if sample.device_id == self._device:
            self._take_sample(sample)
        self._settle()

    def _lost(self, error: FleetError) -> None:
        if isinstance(error, PermanentError):
            self._heard_at = None
        if self._detail != error.detail:
            _log.info("device %s at %s: %s", self.record.name, self._address, error.detail)
        self._detail = error.detail
        self._settle()

    def _settle(self) -> None:
        silence = None if self._heard_at is None else self._clock() - self._heard_at
        state = self._rules.state(connected=self._client is not None, silence_seconds=silence)
        if state == "online":
            self._detail = ""
        elif self._client is not None and silence is not None:
            self._detail = f"no telemetry for {silence:.0f} s"
        if state != self._state:
            self._state = state
            self._changed()


def _explained(error: FleetError, address: str, name: str) -> FleetError:
    """gRPC tells why a dial failed only in words, several lines of them. Without the name in front: it is shown beside the device."""
    said = error.detail.lower()
    if "hostname verification" in said:
        return Denied(f"another device answers at {address}")
    if "handshake" in said or "certificate" in said:
        return Denied(f"TLS with {address} failed: another fleet's device, or its certificate is not valid now", advice="glmfleet doctor")
    if "connection refused" in said:
        return Unavailable(f"nobody listens at {address}")
    if isinstance(error, InvalidInput):
        return InvalidInput(f"{address}: {error.detail}")
    return type(error)(" ".join(error.detail.removeprefix(f"{name}: ").split())[:200], advice=error.advice)
