"""The coordinator: composes discovery, registry, deployments, generation and telemetry behind what the API and the command call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Self

from fleet.answering.generation import GenerationService
from fleet.answering.views import GenerateRequest, GenerateResult, RequestView, TokenChunk
from fleet.deploying.deployments import PERIOD_SECONDS, Deployments
from fleet.deploying.desired import DEFAULT_POLICY, Policy
from fleet.deploying.placement import DISCOVERY_SECONDS, Placement
from fleet.deploying.views import DeployEvent, DeploymentView
from fleet.devices.diagnosis import FleetDiagnosis
from fleet.devices.discovery import Candidate, Discovery, FoundBy
from fleet.devices.inspection import Inspection
from fleet.devices.liveness import Liveness
from fleet.devices.registry import DEFAULT_LIVENESS, Registry
from fleet.devices.remembered import Remembered
from fleet.devices.views import DeviceView, DiscoveryReport
from fleet.enrolling.departures import Departures
from fleet.enrolling.enrolment import Enrolment
from fleet.enrolling.upkeep import Upkeep
from fleet.enrolling.views import DepartureView, EnrolmentView, TokenView
from fleet.home import Home
from fleet.planning.plan import Plan, PlanRequest
from fleet.principal import Principal
from fleet.service.bound import bound
from fleet.service.devices import device_view
from fleet.service.models import model_view
from fleet.service.protocol import FleetService
from fleet.service.views import ModelView
from fleet.store.database import Store
from fleet.telemetry.ingest import BATCH_SECONDS, Ingest
from fleet.telemetry.records import By, Registered, TelemetryRecords
from fleet.telemetry.views import CostRow
from fleet.trust.authority import MEMBER_LIFE, Authority
from fleet.trust.publisher import Publisher
from fleet.trust.tokens import Tokens
from protos.errors import Conflict, FleetError, InvalidInput, NotFound
from protos.ids import DeviceId, FleetId
from protos.net.transport import Credentials, Peer
from quantize.artifact.store import ArtifactStore

INSECURE_FLEET = FleetId("insecure")
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
        store: str | None = None,
        certificate_life: timedelta = MEMBER_LIFE,
        rules: Liveness = DEFAULT_LIVENESS,
        period_seconds: float = PERIOD_SECONDS,
        batch_seconds: float = BATCH_SECONDS,
        discovery_seconds: float = DISCOVERY_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`seeds` and `interfaces` as of Discovery; `store` a database's URL (None: the home's file); `certificate_life` of members; `now`
        in unix seconds.

        The other figures are for tests.
        """
        self._home = home
        self._seeds = tuple(seeds)
        self._interfaces = interfaces
        self._insecure = insecure
        self._store = store
        self._certificate_life = certificate_life
        self._rules = rules
        self._period_seconds = period_seconds
        self._batch_seconds = batch_seconds
        self._discovery_seconds = discovery_seconds
        self._now = now
        self._authority: Authority | None = None  # of a fleet with TLS
        self._enrolment: Enrolment | None = None
        self._upkeep: Upkeep | None = None
        self._credentials: Credentials | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        fleet, credentials = await asyncio.to_thread(self._identity)
        self._credentials = credentials
        async with AsyncExitStack() as stack:
            self._artifacts = await asyncio.to_thread(ArtifactStore, self._home.artifacts)
            store = await asyncio.to_thread(self._open_store)
            stack.callback(store.close)
            self._telemetry = TelemetryRecords(store)
            self._ingest = await stack.enter_async_context(
                Ingest(self._telemetry, self._registered, now=self._now, batch_seconds=self._batch_seconds)
            )
            remembered = await asyncio.to_thread(Remembered, self._home.coordinator / "addresses.json")
            await stack.enter_async_context(remembered)
            publisher: Publisher | None = None
            if self._authority is not None and credentials is not None:
                publisher = await asyncio.to_thread(Publisher.open, self._home.publisher, self._artifacts, self._now)
                upkeep = Upkeep(self._authority, credentials, self._home.coordinator, publisher=publisher.public, now=self._now)
                self._upkeep = await stack.enter_async_context(upkeep)
            self._registry = await stack.enter_async_context(
                Registry(
                    credentials,
                    self._ingest.add,
                    rules=self._rules,
                    proven=remembered.note if credentials else _nobody_proves,
                    standing=self._stands,
                )
            )
            if self._authority is not None:
                tokens = Tokens(self._home.authority, self._now)
                self._enrolment = await stack.enter_async_context(Enrolment(self._authority, tokens, self._joined))
            discovery = Discovery(
                fleet,
                credentials,
                self._found,
                self._registry.gone,
                seeds=self._seeds,
                remembered=remembered.all,
                interfaces=self._interfaces,
                moved=self._registry.network_changed,
                stranger=self._enrolment.heard if self._enrolment else lambda _board, _addresses, _found_by: None,
                unreached=lambda: self._registry.unreached,
            )
            self._discovery = await stack.enter_async_context(discovery)
            life = self._authority.life if self._authority is not None else None
            self._inspection = await stack.enter_async_context(Inspection(self._registry, discovery, credentials, life, self._now))
            self._placement = Placement(self._registry, self._artifacts, discovery_seconds=self._discovery_seconds)
            self._deployments = await stack.enter_async_context(
                Deployments(
                    self._registry,
                    self._artifacts,
                    store,
                    self._placement,
                    vouched=publisher.of if publisher else lambda _model, _manifest: None,
                    period_seconds=self._period_seconds,
                )
            )
            self._generation = await stack.enter_async_context(
                GenerationService(self._deployments, self._artifacts, self._telemetry, now=self._now)
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def as_(self, caller: Principal) -> FleetService:
        """Its calls as the caller makes them."""
        return bound(self, caller)

    def devices(self) -> list[DeviceView]:
        """By name."""
        stages = {pipeline.pipeline_id: len(pipeline.stages) for view in self._deployments.views() for pipeline in view.pipelines}
        return [device_view(record, stages) for record in self._registry.records()]

    def discovery(self) -> DiscoveryReport:
        """Where was looked and what went wrong there; what is wrong with a device that was found is in `devices`."""
        return replace(self._discovery.report(), gateways=tuple(self._registry.gateways()))

    async def diagnosis(self) -> FleetDiagnosis:
        """A closer look at every device, which takes seconds."""
        return await self._inspection.diagnosis()

    def enrolments(self) -> list[EnrolmentView]:
        """Boards that ask to be of the fleet, by name."""
        return self._enrolment.views() if self._enrolment else []

    async def accept(self, board: str) -> EnrolmentView:
        """Take in the board of this name, id or fingerprint. Raises NotFound, Conflict, and what the board says."""
        try:
            return await self._enrolling().accept(board)
        except NotFound as error:
            if any(board in (record.device_id, record.name) for record in self._registry.records()):
                raise Conflict(f"{board} is of the fleet already", advice="`glmfleet devices` shows it") from error
            raise

    async def reject(self, board: str) -> EnrolmentView:
        """Show it no more. Raises NotFound, Conflict."""
        return self._enrolling().reject(board)

    async def tokens(self) -> list[TokenView]:
        """Enrolment tokens, the newest first."""
        return await asyncio.to_thread(self._enrolling().tokens)

    async def new_token(self, life_seconds: float) -> TokenView:
        """One that lets one board in, once. Raises InvalidInput."""
        return await asyncio.to_thread(self._enrolling().new_token, life_seconds)

    async def revoke_token(self, token_id: str) -> None:
        """Raises NotFound."""
        await asyncio.to_thread(self._enrolling().revoke_token, token_id)

    async def decommission(self, device: str, *, force: bool) -> DepartureView:
        """As Departures."""
        return await self._departing().decommission(device, force=force)

    async def expel(self, device: str) -> DepartureView:
        """As Departures."""
        return await self._departing().expel(device)

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
        return (await self._placement.place(request, replaces=request.model)).plans[0]

    async def deploy(
        self, request: PlanRequest, name: str | None = None, replicas: int = 1, policy: Policy = DEFAULT_POLICY
    ) -> AsyncGenerator[DeployEvent, None]:
        """A plan for each of `replicas` pipelines, then push, load, ready events; `name` defaults to the model's.

        Closing the iterator before "ready" takes everything back.
        """
        deployment = name or request.model
        placed = await self._placement.place(request, replaces=deployment, replicas=replicas)
        for plan in placed.plans:
            yield DeployEvent("plan", plan=plan, deployment=deployment)
        async with contextlib.aclosing(self._deployments.deploy(placed, deployment, policy)) as events:
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

    def requests(self) -> list[RequestView]:
        """Those on their way, then the last that have ended, newest first."""
        return self._generation.requests()

    async def cancel(self, request_id: str) -> None:
        """Its client gets what there is, with the reason "cancelled". Raises NotFound when it is not open."""
        self._generation.cancel(request_id)

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

    def _identity(self) -> tuple[FleetId, Credentials | None]:
        if self._insecure:
            return INSECURE_FLEET, None
        self._authority = authority = Authority.open(self._home.authority, life=self._certificate_life)
        folder = self._home.coordinator
        authority.issue_folder(folder, "coordinator", "coordinator")
        certificate, key, signer = ((folder / name).read_bytes() for name in ("certificate.pem", "key.pem", "authority.pem"))
        return authority.fleet_id, Credentials(certificate, key, signer, authority.fleet_id)

    def _open_store(self) -> Store:
        if self._store is not None:
            return Store(self._store)
        self._home.state_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Store(self._home.state_file)

    def _stands(self, member: DeviceId, peer: Peer | None) -> None:
        if self._upkeep is not None:
            if peer is not None:
                self._upkeep.attached(member, peer)
            else:
                self._upkeep.detached(member)

    def _departing(self) -> Departures:
        if self._upkeep is None:
            raise InvalidInput("a fleet without TLS has no members: boards come and go", advice="leave --insecure out")
        return Departures(self._registry, self._upkeep, self._users)

    def _users(self, device: DeviceId) -> list[str]:
        """The deployments that use it."""
        views = self._deployments.views()
        return [view.name for view in views if any(stage.device_id == device for one in view.pipelines for stage in one.stages)]

    def _found(self, candidate: Candidate) -> None:
        if self._credentials is not None and candidate.device_id in self._credentials.revoked:
            return
        found = self._registry.found_gateway if candidate.gateway else self._registry.found
        found(candidate.device_id, candidate.addresses, candidate.found_by)

    def _joined(self, device: DeviceId, address: str, found_by: FoundBy) -> None:
        self._found(Candidate(device, (address,), found_by))

    def _enrolling(self) -> Enrolment:
        if self._enrolment is None:
            raise InvalidInput("a fleet without TLS has no members: boards come and go", advice="leave --insecure out")
        return self._enrolment

    def _registered(self, device: str) -> Registered:
        description = self._registry.description(DeviceId(device))
        return Registered(description.name or device, description.accelerator.hollow) if description else Registered(device)


def _nobody_proves(_device: DeviceId, _address: str) -> None:
    """Without TLS."""
