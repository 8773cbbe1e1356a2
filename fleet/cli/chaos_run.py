"""A simulated fleet of its own under load and in trouble, and what came of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from device.agent.identity import load_identity
from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.chaos_load import Load, requests
from fleet.cli.chaos_report import Course, Verdict, draw, verdict, words
from fleet.cli.client import CoordinatorClient, connect
from fleet.cli.deploy import follow
from fleet.cli.output import count_text, note, print_json, say
from fleet.cli.signals import Signals
from fleet.cli.sim_fleet import device_specs, local_fleet
from fleet.cli.throwaway import ensure_model, start_coordinator, temporary_home, wait_for_devices, wait_until
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from protos.errors import FleetError
from protos.ids import DeviceId
from protos.net.transport import dial
from protos.v1 import device_pb2
from quantize.hub.catalog import DEFAULT_MODEL
from sim_devices.chaos import KILL_COORDINATOR, scenario_text, troubles
from sim_devices.local_fleet import LocalFleet

CONTEXT = 256
SETTLE_SECONDS = 60.0  # after the last trouble, for everything to be well again


@dataclass(frozen=True)
class Wish:
    """What is asked for: a fleet of so many devices, the model cut into `stages`, a trouble `every` so many seconds in the mean."""

    seconds: float
    seed: int
    devices: int
    stages: int
    clients: int
    every: float


def run(kept: Home, wish: Wish, *, plot: Path | None, as_json: bool) -> bool:
    """Whether the fleet passed. The model is the kept home's; all else goes away at the end, whatever happens."""
    with Signals() as signals:
        stack = ExitStack()
        try:
            told, course = _troubled(stack, signals, kept, wish)
        finally:
            signals.ignore()
            stack.close()
    if plot is not None:
        title = f"{count_text(wish.devices, 'device')} in trouble, seed {wish.seed}"
        plot.write_text(draw(course, title), encoding="utf-8")
    if as_json:
        print_json({**vars(told), "passed": told.passed})
        return told.passed
    for line in words(told):
        say(line)
    for example in told.examples:
        note(f"  {example}")
    return told.passed


def _troubled(stack: ExitStack, signals: Signals, kept: Home, wish: Wish) -> tuple[Verdict, Course]:
    ensure_model(kept)
    home = temporary_home(stack, signals, kept, "chaos")
    fleet = local_fleet(home)
    stack.callback(fleet.down)
    server = start_coordinator(stack, signals, home)
    with signals.held():
        started = fleet.up([replace(spec, linked=True) for spec in device_specs((), wish.devices, "fast", None)])
    names = [device.name for device in started]
    with connect(home) as coordinator:
        wait_for_devices(coordinator, {device.device_id for device in started})
        request = PlanRequest(DEFAULT_MODEL, stages=wish.stages, context=CONTEXT, slots=wish.clients)
        follow(coordinator.deploy(request, None), on_plan=lambda _: None)
        note("asking the fleet while nothing troubles it")
        expected = [(request, _answer(coordinator, request)) for request in requests(wish.seed)]
    coming = troubles(wish.seed, wish.seconds, wish.every, names)
    asking = count_text(wish.clients, "client")
    note(f"{count_text(len(coming), 'trouble')} in {wish.seconds:.0f} s for {count_text(wish.devices, 'device')}; {asking} ask")
    world = fleet.with_world()
    load = Load(home, expected, wish.seed)
    ended = threading.Event()

    def kill_and_start() -> None:
        """The coordinator's troubles, which are not the world's."""
        nonlocal server
        for one in (one for one in coming if one.what == KILL_COORDINATOR):
            if ended.wait(max(0.0, one.at_seconds - load.now)):
                return
            server.kill()
            server.wait()
            ended.wait(one.for_seconds)
            server = start_coordinator(stack, signals, home)

    killer = threading.Thread(target=kill_and_start, name="coordinator's troubles")
    world.ask("scenario", "chaos", str(home.path), scenario_text(coming, wish.seed))
    killer.start()
    try:
        load.run(wish.clients, wish.seconds)
    finally:
        ended.set()
        killer.join()
    took = load.now
    told = verdict(load.asked, coming, took, _left_behind(home, fleet, names))
    return told, Course(took, load.token_times, coming, [one.ended for one in load.asked if one.error])


def _answer(coordinator: CoordinatorClient, request: GenerateRequest) -> tuple[int, ...]:
    [result] = [part for part in coordinator.generate(request) if isinstance(part, GenerateResult)]
    return result.token_ids


def _left_behind(home: Home, fleet: LocalFleet, names: Sequence[str]) -> list[str]:
    """When all troubles are over: what has not become well again, and what is still open."""
    fleet.with_world().ask("fault", "0.0", "", "heal", timeout_seconds=90.0)
    found: list[str] = []

    def well() -> bool:
        found[:] = list(_unwell(home, names))
        return not found

    wait_until(well, SETTLE_SECONDS)
    found += [f"{device.name} is not running" for device in fleet.status() if not device.running]
    return found


def _unwell(home: Home, names: Sequence[str]) -> list[str]:
    try:
        with connect(home) as coordinator:
            seen = coordinator.devices()
            away = [f"{device.name} is {device.state}" for device in seen if device.name in names and device.state != "online"]
            states = [f"{view.name} is {view.state}" for view in coordinator.deployments() if view.state != "ready"]
            waiting = [one for one in coordinator.requests() if one.state != "ended"]
            still = [f"the coordinator has {count_text(len(waiting), 'open request')}"] if waiting else []
        if away or states or still:
            return away + states + still
        count = asyncio.run(open_sequences(home, [(device.address, device.device_id) for device in seen]))
    except FleetError as error:
        return [error.detail]
    return [f"{count_text(count, 'sequence')} still open on devices"] if count else []


async def open_sequences(home: Home, devices: Sequence[tuple[str, str]]) -> int:
    """What the devices themselves say, each given as (address, id)."""
    credentials = load_identity(home.coordinator).credentials
    total = 0
    for address, device in devices:
        peer = dial(address, DeviceId(device), credentials)
        try:
            description = await peer.device_stub.Describe(device_pb2.DescribeRequest(), metadata=peer.metadata)
        finally:
            await peer.close()
        total += sum(stage.open_sequences for stage in description.stages)
    return total
