"""The coordinator: composes discovery, registry, deployments, generation and telemetry behind what the API and the command call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Self

from fleet.access import AuditEntry, AuditVerdict, KeyView, NewKey
from fleet.answering.generation import GenerationService
from fleet.answering.views import GenerateRequest, GenerateResult, RequestView, TokenChunk
from fleet.deploying.deployments import PERIOD_SECONDS, Deployments
from fleet.deploying.desired import DEFAULT_POLICY, Policy
from fleet.deploying.losing import losses
from fleet.deploying.placement import DISCOVERY_SECONDS, Placement
from fleet.deploying.views import DeployEvent, DeploymentView, users_of
from fleet.devices.diagnosis import FleetDiagnosis
from fleet.devices.discovery import Candidate, Discovery, FoundBy
from fleet.devices.draining import Draining
from fleet.devices.inspection import Inspection
from fleet.devices.liveness import Liveness
from fleet.devices.registry import DEFAULT_LIVENESS, Registry
from fleet.devices.relays import Relays
from fleet.devices.remembered import Remembered
from fleet.devices.views import DeviceView, DiscoveryReport, LogView
from fleet.enrolling.departures import Departures
from fleet.enrolling.enrolment import Enrolment
from fleet.enrolling.joining import Joining
from fleet.enrolling.upkeep import Upkeep
from fleet.enrolling.views import DepartureView, EnrolmentView, InvitationView, JoinRequest, MembershipView, TokenView
from fleet.home import Home
from fleet.planning.plan import Plan, PlanRequest
from fleet.principal import Principal
from fleet.service.bound import bound
from fleet.service.costs import Costs
from fleet.service.device_view import device_views, find_device, registered
from fleet.service.key_use import KeyUse
from fleet.service.metrics import exposition, families
from fleet.service.models import model_view, model_views
from fleet.service.opening import of_members, open_identity, open_relays, open_store
from fleet.service.protocol import FleetService
from fleet.service.recorder import Recorder
from fleet.service.views import ModelView
from fleet.telemetry.ingest import BATCH_SECONDS, Ingest
from fleet.telemetry.meters import RequestMeters
from fleet.telemetry.records import TelemetryRecords
from fleet.telemetry.views import CostRow, History, Percentiles, RequestObserver
from fleet.trust.api_key import Authenticate, authenticator
from fleet.trust.authority import MEMBER_LIFE, Authority
from fleet.trust.keys import ApiKeys
from fleet.trust.publisher import Publisher
from fleet.trust.tokens import Tokens
from protos.errors import Conflict, InvalidInput, NotFound
from protos.ids import DeviceId, FleetId
from protos.net.transport import Credentials
from protos.recent_log import MOST_LINES
from protos.silence import RECOVERY_SECONDS
from quantize.artifact.store import ArtifactStore

INSECURE_FLEET = FleetId("insecure")

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
        relay: str = "",
        store: str | None = None,
        certificate_life: timedelta = MEMBER_LIFE,
        rules: Liveness = DEFAULT_LIVENESS,
        period_seconds: float = PERIOD_SECONDS,
        batch_seconds: float = BATCH_SECONDS,
        discovery_seconds: float = DISCOVERY_SECONDS,
        recovery_seconds: float = RECOVERY_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`seeds` and `interfaces` as of Discovery; `relay`: "host:port" for devices that dial us, "" for none; `store` a database's URL
        (None: the home's file); `certificate_life` of members; `now` in unix seconds. The other figures are for tests."""
        self._home, self._store = home, store
        self._seeds, self._interfaces = tuple(seeds), interfaces
        self._insecure, self._relay = insecure, relay
        self._certificate_life = certificate_life
        self._rules, self._now = rules, now
        self._period_seconds, self._batch_seconds = period_seconds, batch_seconds
        self._discovery_seconds, self._recovery_seconds = discovery_seconds, recovery_seconds
        self._authority: Authority | None = None  # of a fleet with TLS
        self._enrolment: Enrolment | None = None
        self._joining: Joining | None = None
        self._upkeep: Upkeep | None = None
        self._relays: Relays | None = None
        self._credentials: Credentials | None = None
        self._meters = RequestMeters()
        self.observers: list[RequestObserver] = [self._meters]  # are told of each request that ends
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if not self._insecure:
            self._authority, self._credentials = await asyncio.to_thread(open_identity, self._home, self._certificate_life)
        credentials, fleet = self._credentials, self._authority.fleet_id if self._authority else INSECURE_FLEET
        async with AsyncExitStack() as stack:
            self._artifacts = await asyncio.to_thread(ArtifactStore, self._home.artifacts)
            store = await asyncio.to_thread(open_store, self._home, self._store)
            stack.callback(store.close)
            self._recorder = await asyncio.to_thread(Recorder, self._home.audit, store, fleet, self._now)
            await stack.enter_async_context(self._recorder)
            self._keys = await asyncio.to_thread(ApiKeys, self._home.coordinator, self._now)
            await stack.enter_async_context(KeyUse(self._keys))
            self._telemetry = TelemetryRecords(store)
            ingest = Ingest(
                self._telemetry, lambda device: registered(self._registry, device), now=self._now, batch_seconds=self._batch_seconds
            )
            self._ingest = await stack.enter_async_context(ingest)
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
                    proven=partial(self._proven, remembered) if credentials else lambda _device, _address: None,
                    standing=self._upkeep.attached if self._upkeep else lambda _member, _peer: None,
                )
            )
            self._costs = Costs(self._registry, self._ingest, self._telemetry, self._now)
            if self._authority is not None:
                tokens = Tokens(self._home.authority, self._now)
                self._enrolment = await stack.enter_async_context(
                    Enrolment(self._authority, tokens, self._joined, near=lambda host: self._discovery.near(host))
                )
                self._joining = Joining(self._authority, tokens, self._joined)
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
                known=self._registry.knows,
            )
            self._discovery = await stack.enter_async_context(discovery)
            inspection = Inspection(self._registry, discovery, credentials, self._certificate_life, self._now)
            self._inspection = await stack.enter_async_context(inspection)
            self._draining = await asyncio.to_thread(Draining, self._home.coordinator / "draining.json", self._registry)
            self._placement = Placement(self._registry, self._artifacts, discovery_seconds=self._discovery_seconds)
            self._deployments = await stack.enter_async_context(
                Deployments(
                    self._registry,
                    self._artifacts,
                    store,
                    self._placement,
                    vouched=publisher.of if publisher else lambda _model, _manifest: None,
                    period_seconds=self._period_seconds,
                    moved=self._moved,
                )
            )
            self._generation = await stack.enter_async_context(
                GenerationService(
                    self._deployments,
                    self._artifacts,
                    self._telemetry,
                    now=self._now,
                    recovery_seconds=self._recovery_seconds,
                    observers=self.observers,
                )
            )
            if self._relay:
                dialled = lambda device, addresses: self._found(Candidate(device, addresses, "relay"))  # noqa: E731
                self._relays = await stack.enter_async_context(open_relays(self._relay, credentials, dialled))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def as_(self, caller: Principal) -> FleetService:
        """Its calls as the caller makes them."""
        return bound(self, caller, self._recorder, self._keys)

    def authenticator(self, home_key: str) -> Authenticate:
        """Knows the holders of the home's key and of the fleet's."""
        return authenticator(home_key, self._keys)

    def ready(self) -> bool:
        """Whether every deployment is; none wanted counts."""
        return all(view.state == "ready" for view in self._deployments.views())

    def devices(self) -> list[DeviceView]:
        """By name, without their histories."""
        return [replace(view, history=()) for view in self._device_views()]

    def device(self, device: str) -> DeviceView:
        """By id, else by name, with its history. Raises NotFound, and Conflict when several share the name."""
        return find_device(self._device_views(), device)

    async def drain(self, device: str) -> DeviceId:
        """As Draining."""
        return await self._draining.drain(device)

    async def undrain(self, device: str) -> DeviceId:
        return await self._draining.undrain(device)

    def discovery(self) -> DiscoveryReport:
        """Where was looked and what went wrong there; what is wrong with a device that was found is in `devices`."""
        return replace(self._discovery.report(), gateways=tuple(self._registry.gateways()))

    async def diagnosis(self) -> FleetDiagnosis:
        """A closer look at every device, which takes seconds."""
        look = await self._inspection.diagnosis()
        return self._upkeep.explained(look) if self._upkeep else look

    async def logs(self, device: str = "", after: int = 0, most: int = MOST_LINES) -> LogView:
        """As Inspection.log."""
        return await self._inspection.log(device, after, most)

    def enrolments(self) -> list[EnrolmentView]:
        """Boards that ask to be of the fleet, by name."""
        return self._enrolment.views() if self._enrolment else []

    async def accept(self, board: str) -> EnrolmentView:
        """Take in the board of this name, id or fingerprint. Raises NotFound, Conflict, and what the board says."""
        try:
            return await of_members(self._enrolment).accept(board)
        except NotFound as error:
            if any(board in (record.device_id, record.name) for record in self._registry.records()):
                raise Conflict(f"{board} is of the fleet already", advice="`glmfleet devices` shows it") from error
            raise

    async def reject(self, board: str) -> EnrolmentView:
        """Show it no more. Raises NotFound, Conflict."""
        return of_members(self._enrolment).reject(board)

    async def tokens(self) -> list[TokenView]:
        """Enrolment tokens, the newest first."""
        return await asyncio.to_thread(of_members(self._enrolment).tokens)

    async def new_token(self, life_seconds: float) -> TokenView:
        """One that lets one board in, once. Raises InvalidInput."""
        return await asyncio.to_thread(of_members(self._enrolment).new_token, life_seconds)

    async def revoke_token(self, token_id: str) -> None:
        """Raises NotFound."""
        await asyncio.to_thread(of_members(self._enrolment).revoke_token, token_id)

    def invite(self) -> InvitationView:
        """Raises InvalidInput for a fleet without TLS."""
        told = of_members(self._joining).invite()
        return replace(told, relay_port=self._relays.port, coordinator_id=self._relays.member) if self._relays else told

    async def join(self, request: JoinRequest) -> MembershipView:
        """Raises TokenRefused, Denied, InvalidInput."""
        return await of_members(self._joining).join(request)

    async def keys(self) -> list[KeyView]:
        """Of the API, the newest first."""
        return self._keys.all()

    async def new_key(self, wish: NewKey) -> KeyView:
        """Raises InvalidInput, Conflict."""
        return await asyncio.to_thread(self._keys.make, wish)

    async def revoke_key(self, key_id: str) -> KeyView:
        """Raises NotFound."""
        return await asyncio.to_thread(self._keys.revoke, key_id)

    async def audit(self, since_seconds: float) -> list[AuditEntry]:
        """Raises InvalidInput for a span that is none."""
        if not since_seconds > 0:
            raise InvalidInput(f"a span of {since_seconds:g} s", advice="for example --since 10m")
        return await self._recorder.entries(self._now() - since_seconds)

    async def verify_audit(self) -> AuditVerdict:
        """Whether the audit log is as it was written."""
        return await self._recorder.verify()

    async def decommission(self, device: str, *, force: bool) -> DepartureView:
        """As Departures."""
        return await self._departing().decommission(device, force=force)

    async def expel(self, device: str) -> DepartureView:
        """As Departures."""
        return await self._departing().expel(device)

    def models(self) -> list[ModelView]:
        """As `model_views`."""
        return model_views(self._artifacts)

    def model(self, name: str) -> ModelView:
        """Raises NotFound listing the models there are."""
        return model_view(name, self._artifacts.load(name))

    async def plan(self, request: PlanRequest, standby: int = 0) -> Plan:
        """What `deploy` would do now. Raises NotFound, InvalidInput, NoSpace, Unavailable (a device that was asked for is not online)."""
        return (await self._placement.place(request, replaces=request.model, standby=standby)).plans[0]

    async def deploy(
        self, request: PlanRequest, name: str | None = None, replicas: int = 1, policy: Policy = DEFAULT_POLICY
    ) -> AsyncGenerator[DeployEvent, None]:
        """A plan for each of `replicas` pipelines, then push, load, ready events; `name` defaults to the model's.

        Closing the iterator before "ready" takes everything back.
        """
        deployment = name or request.model
        placed = await self._placement.place(request, replaces=deployment, replicas=replicas, standby=policy.standby)
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
        """As Costs.rows."""
        return await self._costs.rows(since_seconds, by)

    async def history(self, since_seconds: float, device: str | None = None) -> History:
        """As Costs.history; `device` as of `device`."""
        return await self._costs.history(since_seconds, None if device is None else self.device(device))

    async def percentiles(self, since_seconds: float, by: str, wanted: Sequence[float]) -> Percentiles:
        """As Costs.percentiles."""
        return await self._costs.percentiles(since_seconds, by, wanted)

    def metrics(self) -> str:
        """In Prometheus' text format."""
        now = families(self.devices(), self._deployments.views(), self._generation.requests(), self._ingest.latest)
        return exposition(now, self._meters.registry)

    def _device_views(self) -> list[DeviceView]:
        return device_views(self._registry.records(), self._deployments.views(), self._deployments.enforced.stays_on)

    def _departing(self) -> Departures:
        views = self._deployments.views()
        users, breaks = partial(users_of, views=views), partial(losses, views=views)
        return Departures(self._registry, of_members(self._upkeep), users, breaks)

    def _found(self, candidate: Candidate) -> None:
        if self._credentials is not None and candidate.device_id in self._credentials.revoked:
            return
        found = self._registry.found_gateway if candidate.gateway else self._registry.found
        found(candidate.device_id, candidate.addresses, candidate.found_by)

    def _joined(self, device: DeviceId, address: str, found_by: FoundBy) -> None:
        self._found(Candidate(device, (address,), found_by))
        self._recorder.note("board joined", {"device_id": device, "address": address, "by": found_by}, after=f"{device} is of the fleet")

    def _proven(self, remembered: Remembered, device: DeviceId, address: str) -> None:
        if before := remembered.note(device, address):
            self._recorder.note("device moved", {"device_id": device, "from": before}, after=f"at {address}")

    def _moved(self, pipeline: str, devices: str) -> None:
        self._recorder.note("pipeline moved", {"pipeline_id": pipeline}, after=f"on {devices}")
