"""Carrying out faults: at their time, one after another, each in the log."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from protos.errors import FleetError, InvalidInput, NotFound, Unavailable
from sim_devices.active import HEALTHY, Active, FaultCondition, condition_of, cuts_of, healed, words_for
from sim_devices.control import ask
from sim_devices.faults import COORDINATOR, INSIDE_KINDS, LINK_KINDS, Fault
from sim_devices.flip import flip_bit
from sim_devices.local_fleet import LocalFleet
from sim_devices.network import ShapedNetwork
from sim_devices.scenario import Act, PlannedFault, ScenarioEvent, log_line, timeline

LOG = "events.jsonl"
_log = logging.getLogger(__name__)


class Events:
    """An async context manager. What is active decides what each device and link is like; after each change that is made so.

    The log's times are those of the plan, from the start of the last scenario (or of this); what is done live is put there when it is
    done. So the log of a scenario is the same each time, while its acts follow their times as this machine can.
    """

    def __init__(self, fleet: LocalFleet, network: ShapedNetwork, folder: Path) -> None:
        self._fleet = fleet
        self._network = network
        self._log_path = folder / LOG
        self._seed = 0
        self._zero = 0.0
        self._number = 0
        self._active: list[Active] = []
        self._pending: list[ScenarioEvent] = []
        self._conditions: dict[str, FaultCondition] = {}
        self._acting = asyncio.Lock()
        self._woken = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._zero = self._clock()
        self._log_path.write_text("", encoding="utf-8")
        self._runner = asyncio.create_task(self._run(), name="scenario")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._runner
        self._runner.cancel()
        await asyncio.gather(self._runner, return_exceptions=True)

    def begin(self, planned: Sequence[PlannedFault], seed: int) -> int:
        """A scenario from now on; how many events it has. Raises NotFound."""
        events = timeline(planned, self._names(), seed, first=self._number + 1)
        self._number += len(planned)
        self._seed, self._zero = seed, self._clock()
        self._pending = sorted([*self._pending, *events], key=lambda event: event.order)
        self._woken.set()
        return len(events)

    async def once(self, planned: PlannedFault) -> int:
        """By a person; the fault's number. One for now is done when this returns. Raises what stood in the way."""
        number, now_ms = self._number + 1, self._now_ms()
        events = timeline([planned], self._names(), self._seed, first=number, zero_ms=now_ms)
        self._number = number
        later = list(events)
        if not planned.earliest_seconds:
            await self._do(later.pop(0), raising=True)
        self._pending = sorted([*self._pending, *later], key=lambda event: event.order)
        self._woken.set()
        return number

    def report(self) -> dict[str, object]:
        """What is active, what is to come, and the log."""
        active = [
            {"number": one.number, "what": one.fault.text, "since_ms": one.since_ms, "until_ms": one.until_ms} for one in self._active
        ]
        to_come = [{"number": event.number, "at_ms": event.at_ms, "act": event.act, "what": event.fault.text} for event in self._pending]
        return {
            "now_ms": self._now_ms(),
            "active": active,
            "to_come": to_come,
            "log": self._log_path.read_text(encoding="utf-8").splitlines(),
        }

    def forget(self, name: str) -> None:
        """A device that is taken down is no fault."""
        self._active, _ = healed(self._active, [name])
        self._conditions.pop(name, None)
        self._network.cut(cuts_of(one.fault for one in self._active))

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                async with asyncio.timeout((self._pending[0].at_ms - self._now_ms()) / 1000 if self._pending else None):
                    await self._woken.wait()
            except TimeoutError:
                await self._do(self._pending.pop(0), raising=False)

    async def _do(self, event: ScenarioEvent, *, raising: bool) -> None:
        async with self._acting:
            try:
                if event.act == "end" and all(one.number != event.number for one in self._active):
                    return  # healed before its time
                detail = await self._act(event)
            except FleetError as error:
                detail = f"failed: {error.detail}"
                self._write(event.at_ms, event.number, event.act, event.fault, detail)
                if raising:
                    raise
            else:
                self._write(event.at_ms, event.number, event.act, event.fault, detail)

    async def _act(self, event: ScenarioEvent) -> str:
        fault = event.fault
        if fault.kind == "flip-bit":
            return await asyncio.to_thread(self._flip, event)
        if event.act == "end":
            await self._end([str(event.number)])
        elif fault.kind == "heal":
            return await self._end(list(fault.devices))
        elif fault.kind == "rejoin":
            await self._rejoin(fault)
        else:
            self._check_linked(fault)
            self._check_inside(fault)
            until_ms = next((each.at_ms for each in self._pending if each.number == event.number), None)
            self._active.append(Active(event.number, fault, event.at_ms, until_ms))
            try:
                await self._make_so(fault.devices)
            except FleetError:
                await self._end([str(event.number)])
                raise
        return ""

    async def _end(self, targets: list[str]) -> str:
        self._active, ends = healed(self._active, targets)
        await self._make_so(tuple(dict.fromkeys(name for one in ends for name in one.fault.devices)))
        return "; ".join(f"{one.number} {one.fault.text}" for one in ends)

    async def _rejoin(self, fault: Fault) -> None:
        killed = [one for one in self._active if one.fault.kind in ("kill", "battery-empty")]
        others = [one for one in self._active if one not in killed]
        stays, _ = healed(killed, fault.devices)
        self._active = sorted([*others, *stays], key=lambda one: one.number)
        for name in fault.devices:  # also one that ended by itself
            self._conditions[name] = FaultCondition(off=True)
        await self._make_so(fault.devices)

    async def _make_so(self, devices: Sequence[str]) -> None:
        faults = [one.fault for one in self._active]
        self._network.cut(cuts_of(faults))
        for name in devices:
            if name != COORDINATOR:
                await self._make_device_so(name, condition_of(name, faults))

    async def _make_device_so(self, name: str, wanted: FaultCondition) -> None:
        before = self._conditions.get(name, HEALTHY)
        self._conditions[name] = wanted
        if wanted.off:
            if not before.off and not self._fleet.send(name, signal.SIGKILL):
                self._conditions[name] = before  # who ended by itself is not started by the undoing of this
                raise NotFound(f"{name} does not run")
            return
        if before.off or (before.battery_empty and not wanted.battery_empty):
            self._conditions[name] = FaultCondition(off=True)  # until it has started
            await asyncio.to_thread(self._fleet.restart, name, wanted.clock_skew_seconds)
            self._conditions[name] = wanted
            before = FaultCondition(clock_skew_seconds=wanted.clock_skew_seconds)
        if before.hung and not wanted.hung:
            self._fleet.send(name, signal.SIGCONT)
        for words in words_for(before, wanted):
            try:
                await asyncio.to_thread(ask, self._fleet.folder(name), words)
            except InvalidInput as error:
                raise error.at(name) from error
        if wanted.hung and not before.hung and not self._fleet.send(name, signal.SIGSTOP):
            raise NotFound(f"{name} does not run")

    def _flip(self, event: ScenarioEvent) -> str:
        flipped = []
        for name in event.fault.devices:
            chance = random.Random(f"{self._seed}/{event.number}/{name}")  # nosec B311 # the same every time
            flipped.append(f"{name}: {flip_bit(self._fleet.folder(name) / 'blobs' / 'sha256', event.fault.blob, chance)}")
        return "; ".join(flipped)

    def _check_linked(self, fault: Fault) -> None:
        if fault.kind in LINK_KINDS:
            for name in fault.devices:
                if name != COORDINATOR and name not in self._network.names:
                    raise Unavailable(
                        f"{name} was started without links, so nothing stands between it and the others",
                        advice="start it from a fleet file, or with `glmfleet sim up --links`",
                    )

    def _check_inside(self, fault: Fault) -> None:
        if fault.kind in INSIDE_KINDS:
            for device in self._fleet.status():
                if device.hollow and device.name in fault.devices:
                    raise InvalidInput(
                        f"{device.name} is a gateway of hollow devices, which have no board, disk or clock",
                        advice="kill it, or hang it",
                    )

    def _names(self) -> list[str]:
        return [device.name for device in self._fleet.status()]

    def _write(self, at_ms: int, number: int, act: Act, fault: Fault, detail: str) -> None:
        line = log_line(at_ms, number, act, fault.text, detail)
        _log.info("%s", line)
        with self._log_path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _now_ms(self) -> int:
        return round((self._clock() - self._zero) * 1000)

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()
