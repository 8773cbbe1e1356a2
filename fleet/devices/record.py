"""What is known of one device, from whichever connection listens to it: its description, its last sign of life, its state."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fleet.devices.client import DeviceClient
from fleet.devices.liveness import Liveness
from fleet.devices.phase import DeviceCondition, DevicePhase, ObservedDevice, Offline, device_phase
from fleet.devices.redial import Redial
from fleet.devices.views import DeviceState, StateChange
from protos.errors import Denied, FleetError, PermanentError, Unavailable
from protos.ids import DeviceId
from protos.plausible import implausible
from protos.silence import Silence
from protos.v1 import device_pb2 as pb
from protos.v1 import telemetry_pb2
from protos.versions import in_common

US = "this coordinator"
CHANGES = 32  # of a device's state that are remembered

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
    gateway: DeviceId | None = None  # that answers at the address for it
    gauges: telemetry_pb2.Gauges | None = None  # of the last sample on this connection
    addresses: tuple[str, ...] = ()  # where it, or its gateway, may be reached: what a neighbour is told, the likeliest first
    history: tuple[StateChange, ...] = ()  # the latest last
    draining: bool = False  # it is to be switched off: nothing new goes there

    @property
    def name(self) -> str:
        return self.description.name if self.description and self.description.name else self.device_id


class Watched:
    """`check` it as time passes. Tells of every change of state and every sample."""

    def __init__(
        self,
        device: DeviceId,
        where: Redial,
        rules: Liveness,
        clock: Callable[[], float],
        take_sample: Callable[[telemetry_pb2.TelemetrySample], None],
        changed: Callable[[], None],
        gateway: DeviceId | None = None,
        silence: Callable[[], Silence | None] = lambda: None,
    ) -> None:
        """`silence`: of the gateway, where it is heard by one."""
        self._device = device
        self._where = where
        self._rules = rules
        self._clock = clock
        self._take_sample = take_sample
        self._changed = changed
        self._gateway = gateway
        self._client: DeviceClient | None = None
        self._gauges: telemetry_pb2.Gauges | None = None
        self._description: pb.DeviceDescription | None = None
        self._error = "it has not answered yet"
        self._state: DeviceCondition = Offline(self._error)
        self._boots: set[str] = set()  # before the last
        self._doubled = ""
        self._silence = silence
        self._beats = False  # itself; while it is not connected, whether it did
        self._newly_answers = False
        self._history: deque[StateChange] = deque(maxlen=CHANGES)
        self.said_goodbye = False
        self.heard_at: float | None = None

    @property
    def state(self) -> DeviceState:
        return self._state.name

    @property
    def description(self) -> pb.DeviceDescription | None:
        return self._description

    @property
    def connected(self) -> bool:
        return self._client is not None

    @property
    def record(self) -> DeviceRecord:
        where = self._where
        return DeviceRecord(
            self._device,
            where.address,
            where.found_by,
            self._state.name,
            self._state.detail,
            self.connected,
            self._description,
            self._gateway,
            self._gauges,
            where.addresses,
            tuple(self._history),
        )

    @property
    def client(self) -> DeviceClient:
        """Raises Unavailable while there is no connection."""
        if self._client is None:
            raise Unavailable(f"{self.record.name}: {self._state.detail or 'the device is not connected'}")
        return self._client

    def attach(self, client: DeviceClient, description: pb.DeviceDescription) -> None:
        """It answers, and says that it is this. Raises as `accept`."""
        client.name = description.name or self._device
        self._client, self._newly_answers = client, True
        self.accept(description)

    def reattach(self, client: DeviceClient) -> None:
        """It is heard again, with what it said of itself still true."""
        client.name = self.record.name
        self._client, self._newly_answers = client, True

    def detach(self) -> None:
        self._client = self._gauges = None

    def accept(self, description: pb.DeviceDescription) -> None:
        """Raises Conflict when there is no version of the protocol in common, Denied when it says that it is another, or when two boards
        have its key: a boot's id is new each time, so one that was followed by another never comes back."""
        in_common(description, description.name or self._device, US)
        if description.device_id != self._device:
            raise Denied(f"it says that it is {description.device_id}, not {self._device}").at(description.name)
        if description.boot_id in self._boots:
            self.doubled("two boards show its key in turn")
        if self._doubled:
            raise Denied(self._doubled, advice=f"expel the key: glmfleet devices revoke {self._device}").at(description.name)
        before, self._description = self._description, description
        if before is not None and before.boot_id != description.boot_id:
            self._boots.add(before.boot_id)
        if before is None or before.boot_id != description.boot_id or before.stages != description.stages:
            self._changed()

    def doubled(self, how: str) -> None:
        """Its key is in two places, so that nobody knows which is the one that was taken in: neither is believed from now on."""
        if not self._doubled:
            _log.warning("%s: %s", self.record.name, how)
        self._doubled = how

    @contextmanager
    def heard_by(self, silence: Callable[[], Silence | None]) -> Iterator[None]:
        """While inside, it is heard by a connection of its own, on which `silence` is until now; None: it does not beat there."""
        self._silence, self._beats = silence, False
        try:
            yield
        finally:
            self._beats = silence() is not None
            self._silence = lambda: None

    def goodbye(self) -> None:
        """It was heard to leave. A hint: of one that is connected, the connection knows better."""
        if not self.said_goodbye:
            self.said_goodbye = True
            self.note("it said goodbye")

    def note(self, what: str) -> None:
        """For its record: something that changes nothing by itself."""
        self._remember(self._state.name, what)

    def hear(self, sample: telemetry_pb2.TelemetrySample) -> None:
        """A sample, or a beat, which is an empty one."""
        self.heard_at = self._clock()
        if sample.device_id == self._device:
            self._take_sample(sample)
            self._gauges = sample.gauges if implausible(sample.gauges) is None else None
        self.check()

    def lost(self, error: FleetError) -> bool:
        """The connection ended with `error`; whether that is news."""
        if isinstance(error, PermanentError):
            self.heard_at = None
        news = self._error != error.detail
        self._error = error.detail
        self.check()
        return news

    def phase(self, *, wanted: bool) -> DevicePhase:
        """`wanted`: somebody waits for it."""
        described = self._description is not None
        silence = self._silence()
        beats = self._beats or (self._gateway is None and silence is not None)
        observed = ObservedDevice(self.connected, self.heard_at, self._error, described, self.said_goodbye, silence, beats)
        return device_phase(observed, self._rules, self._clock(), wanted=wanted)

    def check(self) -> None:
        """Let silence tell."""
        before, self._state = self._state, self.phase(wanted=True).state
        if self._state.name == "online":
            self._error = ""
        if before.name != self._state.name:
            answers = f"it answers at {self._where.address}" if self._newly_answers else "it is heard again"
            self._remember(before.name, self._state.detail or answers)
            self._newly_answers = False
            self._changed()

    def _remember(self, before: DeviceState, why: str) -> None:
        self._history.append(StateChange(time.time(), before, self._state.name, why))
        if before != self._state.name:
            _log.info("device %s is %s: %s", self.record.name, self._state.name, why)
