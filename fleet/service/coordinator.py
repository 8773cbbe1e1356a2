"""The coordinator: composes discovery, registry, deployments, generation and telemetry behind what the API and the command call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from fleet.answering.generation import Generation
from fleet.answering.views import GenerateRequest, GenerateResult, TokenChunk
from fleet.background import together
from fleet.deploying.deployments import PERIOD_SECONDS, Deployments
from fleet.deploying.views import DeployEvent, DeploymentView
from fleet.devices.discovery import Candidate, Discovery
from fleet.devices.liveness import Liveness
from fleet.devices.record import DeviceRecord
from fleet.devices.registry import ASKED_AT_ONCE, DEFAULT_LIVENESS, Registry
from fleet.devices.views import DeviceView, DiscoveryReport
from fleet.home import Home
from fleet.planning.plan import Plan, PlanRequest
from fleet.planning.planner import PlannerDevice
from fleet.planning.planner import plan as plan_for
from fleet.service.models import model_view
from fleet.service.views import ModelView
from fleet.store import Store
from fleet.telemetry.ingest import BATCH_SECONDS, Ingest
from fleet.telemetry.records import By, Registered, Telemetry, source_of
from fleet.telemetry.views import CostRow
from fleet.trust.authority import Authority
from protos.dialects import DIALECT
from protos.errors import FleetError, InvalidInput, NoSpace, NotFound, Unavailable
from protos.ids import DeviceId, Digest, FleetId
from protos.manifest import Manifest
from protos.net.transport import Credentials
from protos.physics.roofline import Figures
from protos.physics.thermal import Thermal
from protos.v1 import device_pb2 as pb
from protos.v1 import telemetry_pb2
from quantize.artifact.store import ArtifactStore
from quantize.parts import layer_number

INSECURE_FLEET = FleetId("insecure")
# A plan that the devices found so far do not allow waits for others until the coordinator has looked so long (mDNS answers within 2 s).
DISCOVERY_SECONDS = 5.0
_GROUPINGS: Mapping[str, By] = {"device": "device", "model": "model", "deployment": "deployment", "request": "request"}

_log = logging.getLogger(__name__)


class Coordinator:
    """An async context manager: one of them runs a home's fleet. Methods are called from its event loop and raise FleetErrors."""

    def __init__(
        self,
        home: Home,
        *,
        seeds: Sequence[str] = (),
        interfaces: Sequence[str] | None = None,
        insecure: bool = False,
        rules: Liveness = DEFAULT_LIVENESS,
        period_seconds: float = PERIOD_SECONDS,
        batch_seconds: float = BATCH_SECONDS,
        discovery_seconds: float = DISCOVERY_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`seeds` and `interfaces` as of Discovery; `now` in unix seconds; the other figures are for tests."""
        self._home = home
        self._seeds = tuple(seeds)
        self._interfaces = interfaces
        self._insecure = insecure
        self._rules = rules
        self._period_seconds = period_seconds
        self._batch_seconds = batch_seconds
        self._discovery_seconds = discovery_seconds
        self._discovered_by = 0.0  # of the monotonic clock
        self._now = now
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        fleet, credentials = await asyncio.to_thread(self._identity)
        async with AsyncExitStack() as stack:
            self._artifacts = await asyncio.to_thread(ArtifactStore, self._home.artifacts)
            store = await asyncio.to_thread(self._open_store)
            stack.callback(store.close)
            self._telemetry = Telemetry(store)
            self._ingest = await stack.enter_async_context(
                Ingest(self._telemetry, self._registered, now=self._now, batch_seconds=self._batch_seconds)
            )
            self._registry = await stack.enter_async_context(Registry(credentials, self._ingest.add, rules=self._rules))
            discovery = Discovery(fleet, credentials, self._found, self._registry.gone, seeds=self._seeds, interfaces=self._interfaces)
            self._discovery = await stack.enter_async_context(discovery)
            self._discovered_by = time.monotonic() + self._discovery_seconds
            self._deployments = await stack.enter_async_context(
                Deployments(self._registry, self._artifacts, store, period_seconds=self._period_seconds)
            )
            self._generation = await stack.enter_async_context(
                Generation(self._deployments, self._artifacts, self._telemetry, now=self._now)
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def devices(self) -> list[DeviceView]:
        """By name."""
        models = {view.name: view for view in self._deployments.views()}
        return [_device_view(record, models) for record in self._registry.records()]

    def discovery(self) -> DiscoveryReport:
        """Where was looked and what went wrong there; what is wrong with a device that was found is in `devices`."""
        return replace(self._discovery.report(), gateways=tuple(self._registry.gateways()))

    def models(self) -> list[ModelView]:
        """By name; a model whose manifest is damaged is left out, and logged."""
        views = []
        for name in self._artifacts.list():
            try:
                views.append(self.model(name))
            except FleetError as error:
                _log.warning("%s (%s)", error.detail, error.advice)
        return views

    def model(self, name: str) -> ModelView:
        """Raises NotFound listing the models there are."""
        return model_view(name, self._artifacts.load(name))

    async def plan(self, request: PlanRequest) -> Plan:
        """What `deploy` would do now. Raises NotFound, InvalidInput, NoSpace, Unavailable (a device that was asked for is not online)."""
        return await self._plan(request, request.model)

    async def deploy(self, request: PlanRequest, name: str | None = None) -> AsyncGenerator[DeployEvent, None]:
        """Plan, push, load, ready events; `name` defaults to the model's. Closing the iterator before "ready" takes everything back."""
        deployment = name or request.model
        plan = await self._plan(request, deployment)
        yield DeployEvent("plan", plan=plan, deployment=deployment)
        async with contextlib.aclosing(self._deployments.deploy(plan, deployment)) as events:
            async for event in events:
                yield event

    def deployments(self) -> list[DeploymentView]:
        """By name."""
        return self._deployments.views()

    async def undeploy(self, name: str) -> None:
        """Raises NotFound listing the deployments, Conflict while it is being deployed."""
        await self._deployments.undeploy(name)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk | GenerateResult, None]:
        """Chunks as they come, the result last. Closing the iterator early cancels the sequence."""
        async with contextlib.aclosing(self._generation.generate(request)) as parts:
            async for part in parts:
                yield part

    async def telemetry(self, since_seconds: float, by: str) -> list[CostRow]:
        """What the last `since_seconds` cost. Raises InvalidInput for a span or a grouping that is none."""
        if not since_seconds > 0:
            raise InvalidInput(f"a span of {since_seconds:g} s", advice="for example --since 10m")
        if by not in _GROUPINGS:
            raise InvalidInput(f"cannot group by {by!r}", advice=f"group by {', '.join(_GROUPINGS)}")
        if by == "device":  # its figures are the devices' counters: those of the last second count too
            await self._registry.sample()
        await self._ingest.flush()
        return await asyncio.to_thread(self._telemetry.costs, since_seconds, _GROUPINGS[by], self._now())

    async def wait_for_devices(self, count: int, timeout_seconds: float) -> None:
        """Until `count` devices are online. Raises TimedOut."""
        await self._registry.wait_online(count, timeout_seconds)

    def _identity(self) -> tuple[FleetId, Credentials | None]:
        if self._insecure:
            return INSECURE_FLEET, None
        authority = Authority.open(self._home.authority)
        folder = self._home.coordinator
        authority.issue_folder(folder, "coordinator", "coordinator")
        files = [(folder / name).read_bytes() for name in ("certificate.pem", "key.pem", "authority.pem")]
        return authority.fleet_id, Credentials(*files)

    def _open_store(self) -> Store:
        self._home.state_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Store(self._home.state_file)

    def _found(self, candidate: Candidate) -> None:
        found = self._registry.found_gateway if candidate.gateway else self._registry.found
        found(candidate.device_id, candidate.address, candidate.found_by)

    def _registered(self, device: str) -> Registered:
        description = self._registry.description(DeviceId(device))
        return Registered(description.name or device, description.accelerator.hollow) if description else Registered(device)

    async def _plan(self, request: PlanRequest, deployment: str) -> Plan:
        manifest = await asyncio.to_thread(self._artifacts.load, request.model)
        while True:
            changes = self._registry.changes
            try:
                return await self._plan_now(request, manifest, deployment)
            except (NotFound, NoSpace, Unavailable):
                if not await self._registry.changed_within(changes, self._discovered_by - time.monotonic()):
                    raise

    async def _plan_now(self, request: PlanRequest, manifest: Manifest, deployment: str) -> Plan:
        request = replace(request, devices=tuple(name for key in request.devices for name in self._labelled(key)))
        for key in request.devices:
            record = self._registry.find(key)
            if record.state != "online":
                raise Unavailable(f"{record.name} is {record.state}: {record.detail}", advice="glmfleet doctor tells what was tried")
        able = [record for record in self._registry.records() if record.description is not None and DIALECT in record.description.dialects]
        online = [record for record in able if record.state == "online"]
        if not online:
            raise NotFound("no device is online", advice="start some with `glmfleet sim up`; `glmfleet doctor` tells what was tried")
        await self._registry.refresh(record.device_id for record in online)
        candidates = [
            _planner_device(current.device_id, current.description, deployment)
            for record in online
            if (current := self._registry.record(record.device_id)) is not None and current.description is not None
        ]
        chosen = await asyncio.to_thread(plan_for, manifest, candidates, request, {})
        # Only those that were chosen are asked what they have: it changes what is to be sent, not which devices are best.
        present = await self._present(manifest, [DeviceId(stage.device_id) for stage in chosen.stages])
        if not any(present.values()):
            return chosen
        return await asyncio.to_thread(plan_for, manifest, candidates, request, present)

    def _labelled(self, key: str) -> tuple[str, ...]:
        """The ids of the online devices with the label "key=value"; a name or id as it is. Raises NotFound for a label of none."""
        name, equals, value = key.partition("=")
        if not equals:
            return (key,)
        online = [record for record in self._registry.records() if record.state == "online" and record.description is not None]
        found = tuple(record.device_id for record in online if record.description and record.description.labels.get(name) == value)
        if not found:
            raise NotFound(f"no device that is online has the label {key!r}", advice="see `glmfleet devices --json`")
        return found

    async def _present(self, manifest: Manifest, devices: Sequence[DeviceId]) -> dict[str, frozenset[Digest]]:
        """Blobs of the model that each device has already; none of a device that does not answer."""
        digests = sorted(manifest.blobs())

        async def one(device: DeviceId) -> frozenset[Digest]:
            try:
                states = await self._registry.client(device).stat_blobs(digests)
            except FleetError:
                return frozenset()
            return frozenset(digest for digest, state in states.items() if state.complete)

        found = await together([one(device) for device in devices], at_once=ASKED_AT_ONCE)
        return dict(zip(devices, found, strict=True))


def _planner_device(device: DeviceId, description: pb.DeviceDescription, deployment: str) -> PlannerDevice:
    """Stages of the deployment that the plan would replace count as free: they are unloaded first."""
    accelerator = description.accelerator
    replaced_bytes = sum(stage.memory_bytes for stage in description.stages if stage.generation.deployment == deployment)
    return PlannerDevice(
        device_id=device,
        name=description.name or device,
        profile=accelerator.profile,
        simulated=accelerator.simulated,
        hollow=accelerator.hollow,
        memory_bytes=max(0, description.memory_bytes - description.memory_used_bytes + replaced_bytes),
        figures=Figures(**{name: getattr(accelerator.figures, name) for name in Figures.__dataclass_fields__}),
        thermal=Thermal(**{name: getattr(accelerator.thermal, name) for name in Thermal.__dataclass_fields__})
        if accelerator.HasField("thermal")
        else None,
    )


def _device_view(record: DeviceRecord, deployments: Mapping[str, DeploymentView]) -> DeviceView:
    description = record.description or pb.DeviceDescription()
    accelerator, gauges = description.accelerator, telemetry_pb2.Gauges()
    if record.gauges is not None and record.state == "online":  # silent for some seconds: not those of now
        gauges = record.gauges
    metered = gauges is record.gauges and accelerator.energy_source != telemetry_pb2.ENERGY_SOURCE_UNMETERED
    return DeviceView(
        device_id=record.device_id,
        name=record.name,
        address=record.address,
        state=record.state,
        simulated=accelerator.simulated,
        profile=accelerator.profile,
        pace=accelerator.pace,
        memory_bytes=description.memory_bytes,
        memory_used_bytes=description.memory_used_bytes,
        energy_source=source_of(accelerator.energy_source),
        agent_version=description.agent_version,
        stages=tuple(_stage_line(stage, deployments.get(stage.generation.deployment)) for stage in description.stages),
        labels=dict(description.labels),
        found_by=record.found_by,
        detail=record.detail,
        hollow=accelerator.hollow,
        gateway=record.gateway or "",
        power_watts=gauges.power_watts if metered else None,
        temperature_celsius=gauges.temperature_celsius if gauges.HasField("temperature_celsius") else None,
        throttled=gauges.throttled,
        battery_fraction=gauges.battery_fraction if gauges.HasField("battery_fraction") else None,
    )


def _stage_line(stage: pb.StageStatus, deployment: DeploymentView | None) -> str:
    """ "smollm2-135m stage 0 of 3: layers 0-9"."""
    of = f" of {len(deployment.stages)}" if deployment else ""
    numbers = sorted(number for part in stage.parts if (number := layer_number(part)) is not None)
    layers = f": layers {numbers[0]}-{numbers[-1]}" if numbers else ""
    return f"{stage.generation.deployment} stage {stage.stage}{of}{layers}"
