"""A coordinator without devices: it answers from a script and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fleet.access import AuditEntry, AuditVerdict, KeyView, NewKey
from fleet.answering.views import GenerateRequest, GenerateResult, RequestView, TokenChunk
from fleet.deploying.desired import DEFAULT_POLICY, Policy
from fleet.deploying.views import DeployEvent, DeploymentView, PipelineView
from fleet.devices.diagnosis import DeviceDiagnosis, FleetDiagnosis
from fleet.devices.views import DeviceView, DiscoveryReport, LogView
from fleet.enrolling.views import DepartureView, EnrolmentView, InvitationView, JoinRequest, MembershipView, TokenView
from fleet.planning.plan import Plan, PlanRequest, StagePlan
from fleet.principal import Principal
from fleet.service.bound import bound
from fleet.service.device_view import find_device
from fleet.service.protocol import FleetService
from fleet.service.views import ModelView
from fleet.telemetry.views import CostRow, DeviceCost, History, HistorySeries, Percentiles, PercentileSeries
from protos.errors import FleetError, NotFound
from protos.ids import DeviceId
from protos.recent_log import LogLine

_T = TypeVar("_T")

DEVICE = DeviceView(
    device_id="aaaabbbbccccdddd",
    name="dev-1",
    address="127.0.0.1:7420",
    state="online",
    simulated=True,
    profile="rk3588",
    pace="fast",
    memory_bytes=8 << 30,
    memory_used_bytes=1 << 30,
    energy_source="modelled",
    agent_version="0.1.0",
    stages=("tiny stage 0 of 1: layers 0-3",),
    labels={"room": "7"},
    found_by="mdns",
)
MODEL = ModelView("tiny", "d" * 64, "GlmForCausalLM", 1_234_567, 4, 64, 128, 8, 32, 1 << 20, "Apache-2.0", "a notice", "tests")
STAGE = StagePlan(
    device_id=DEVICE.device_id,
    device_name="dev-1",
    profile="rk3588",
    simulated=True,
    first_layer=0,
    stop_layer=4,
    parts=("embedding", "positions", "layers.0", "layers.1", "layers.2", "layers.3", "head"),
    weight_bytes=1 << 20,
    kv_bytes=1 << 16,
    memory_bytes=8 << 30,
    push_bytes=1 << 20,
    decode_seconds=0.01,
    decode_joules=0.05,
)
PLAN = Plan("tiny", "d" * 64, "latency", 128, 1, 16, 64, (STAGE,), 100.0, 0.05, 256, ("fits on one device",))
PIPELINE = PipelineView("tiny-1", "ready", "", "tiny", "d" * 64, 1, (STAGE,))
DEPLOYMENT = DeploymentView("tiny", "tiny", "d" * 64, "ready", "", (STAGE,), 128, 16, 1, (PIPELINE,))
REQUEST = RequestView("r1", "ended", "tiny", "tiny", "tiny-1", 1, False, 4, 3, 100.0, None, 101.0, "stop", "")
COST = DeviceCost(DEVICE.device_id, "dev-1", "rk3588", True, 0.5, 0.25, 1.5, "modelled", 0.5)
RESULT = GenerateResult(
    model="tiny",
    deployment="tiny",
    request_id="r1",
    text="Paris is",
    token_ids=(5, 6, 7),
    finish_reason="stop",
    prompt_tokens=4,
    completion_tokens=3,
    ttft_seconds=0.125,
    tpot_seconds=0.0625,
    modelled_ttft_seconds=0.1,
    modelled_tpot_seconds=0.05,
    total_seconds=0.3,
    devices=(COST,),
)
CHUNKS = (TokenChunk("Par", (5,)), TokenChunk("", (6,)), TokenChunk("is is", (7,)))
ROW = CostRow("dev-1", DEVICE.device_id, 1, 4, 3, 0.5, 0.25, 1.5, 2.5, 0.5, "modelled")
PAST = History(
    5.0,
    (1005.0, 1010.0, 1015.0),
    (
        HistorySeries(
            "fleet",
            "",
            "modelled",
            False,
            (2, 0, 2),
            (10.5, None, 12.0),
            (30.0, None, 25.0),
            (0.5, None, 1.0),
            (61.0, None, 62.5),
            (1 << 30, None, 1 << 30),
            (0.25, None, None),
        ),
    ),
)
PERCENTILES = Percentiles(
    300.0,
    (1300.0, 1600.0),
    (50.0, 99.5),
    (
        PercentileSeries("tiny", "ttft_seconds", "measured", 12, (0.125, 0.5), (0, 12), ((None, 0.125), (None, 0.5))),
        PercentileSeries("tiny", "joules_per_token", "modelled", 12, (0.25, 0.75), (2, 10), ((0.5, 0.25), (0.5, 0.75))),
    ),
)
EVENTS = (
    DeployEvent("plan", plan=PLAN),
    DeployEvent("push", device_name="dev-1", done_bytes=1 << 19, total_bytes=1 << 20),
    DeployEvent("push", device_name="dev-1", done_bytes=1 << 20, total_bytes=1 << 20),
    DeployEvent("load", device_name="dev-1", seconds=0.25),
    DeployEvent("ready", deployment="tiny"),
)


DIAGNOSIS = FleetDiagnosis("0.1.0", "1", 86400.0, 43200.0, ("lo (127.0.0.1)",), (DeviceDiagnosis(DEVICE.device_id, "dev-1"),))
BOARD = EnrolmentView("abcdefgh22334455", "gate-7", "diamond machine female mask zoo", "10.0.0.7:7420", "Raspberry Pi 5", "0.1.0", "mdns")
TOKEN = TokenView("0a1b2c3d", 1e9, "abcdefgh22334455")
KEY = KeyView("1f2e3d4c", "dashboard", "viewer", "good", 1e9, 2e9, 60, None, None, 12)
LINE = AuditEntry(7, 1e9, "local", "admin", "", "undeploy", "done", {"name": "tiny"}, 6, "ready: tiny", "absent")
VERDICT = AuditVerdict(7, "")
INVITATION = InvitationView("fleetfleetfleet1", "a certificate", "00ff")
MEMBERSHIP = MembershipView("abcdefgh22334455", "one certificate", "another")


class Unlimited:
    """A Budget without an end."""

    def __init__(self) -> None:
        self.spent: list[tuple[str, int]] = []

    def check(self, key_id: str) -> None:
        pass

    def still_good(self, key_id: str) -> None:
        pass

    def spend(self, key_id: str, tokens: int) -> None:
        self.spent.append((key_id, tokens))


@dataclass
class Lines:
    """An Audit that keeps its lines; `error` is raised instead."""

    lines: list[dict[str, object]] = field(default_factory=list)
    error: FleetError | None = None

    async def write(
        self,
        who: Principal,
        call: str,
        outcome: str,
        arguments: Mapping[str, object] = {},
        *,
        of: int | None = None,
        before: str = "",
        after: str = "",
        detail: str = "",
    ) -> int:
        if self.error is not None:
            raise self.error
        told = {"who": who.name, "call": call, "outcome": outcome, "arguments": dict(arguments), "of": of}
        self.lines.append({**told, "before": before, "after": after, "detail": detail})
        return len(self.lines)


@dataclass
class FakeCoordinator:
    """`error_at` n: `error` is raised after n parts of an answer or a deployment; `hold_at` n: it waits there until it is closed."""

    found: list[DeviceView] = field(default_factory=lambda: [DEVICE])
    looked: FleetDiagnosis = DIAGNOSIS
    asking: list[EnrolmentView] = field(default_factory=list)
    deployed: list[DeploymentView] = field(default_factory=lambda: [DEPLOYMENT])
    chunks: Sequence[TokenChunk] = CHUNKS
    result: GenerateResult = RESULT
    rows: list[CostRow] = field(default_factory=lambda: [ROW])
    past: History = PAST
    logged: list[LogLine] = field(default_factory=lambda: [LogLine(1, 1e9, "INFO", "device.agent", "it is here")])
    distributed: Percentiles = PERCENTILES
    error: Exception | None = None
    error_at: int = 0
    hold_at: int | None = None
    asked: list[object] = field(default_factory=list)
    leaves_behind: tuple[str, ...] = ()  # deployments that used a device which is taken out
    callers: list[Principal] = field(default_factory=list)
    holding: bool = False
    log: Lines = field(default_factory=Lines)
    budget: Unlimited = field(default_factory=Unlimited)
    closed: int = 0  # answers and deployments that came to an end, whichever way

    def as_(self, caller: Principal) -> FleetService:
        self.callers.append(caller)
        return bound(self, caller, self.log, self.budget)

    def ready(self) -> bool:
        return all(one.state == "ready" for one in self.deployed)

    def invite(self) -> InvitationView:
        return INVITATION

    async def join(self, request: JoinRequest) -> MembershipView:
        self._ask(request)
        return MEMBERSHIP

    async def keys(self) -> list[KeyView]:
        return [KEY]

    async def new_key(self, wish: NewKey) -> KeyView:
        self._ask(wish)
        return replace(KEY, key="glmfleet-key-secret")

    async def revoke_key(self, key_id: str) -> KeyView:
        self._ask(("revoke_key", key_id))
        return replace(KEY, state="revoked")

    async def audit(self, since_seconds: float) -> list[AuditEntry]:
        self._ask(("audit", since_seconds))
        return [LINE]

    async def verify_audit(self) -> AuditVerdict:
        return VERDICT

    def devices(self) -> list[DeviceView]:
        return [replace(device, history=()) for device in self.found]

    def device(self, device: str) -> DeviceView:
        return find_device(self.found, device)

    def discovery(self) -> DiscoveryReport:
        return DiscoveryReport("fleetfleetfleet1", ("127.0.0.1",), ("10.0.0.9:7420",), 2, ("10.0.0.9:7420 does not answer",))

    async def logs(self, device: str = "", after: int = 0, most: int = 1000) -> LogView:
        self._ask((device, after, most))
        return LogView(device, "boot", tuple(line for line in self.logged if line.number > after)[-most:])

    async def diagnosis(self) -> FleetDiagnosis:
        self._ask("diagnosis")
        return self.looked

    def enrolments(self) -> list[EnrolmentView]:
        return self.asking

    async def accept(self, board: str) -> EnrolmentView:
        self._ask(("accept", board))
        return BOARD

    async def reject(self, board: str) -> EnrolmentView:
        self._ask(("reject", board))
        return BOARD

    async def tokens(self) -> list[TokenView]:
        return [TOKEN]

    async def new_token(self, life_seconds: float) -> TokenView:
        self._ask(("new_token", life_seconds))
        return replace(TOKEN, token="glmfleet-secret", used_by="")

    async def revoke_token(self, token_id: str) -> None:
        self._ask(("revoke_token", token_id))

    async def decommission(self, device: str, *, force: bool) -> DepartureView:
        self._ask(("decommission", device, force))
        return DepartureView(DEVICE.device_id, DEVICE.name, wiped=True, used_by=self.leaves_behind)

    async def expel(self, device: str) -> DepartureView:
        self._ask(("expel", device))
        return DepartureView(DEVICE.device_id, DEVICE.name, wiped=False, used_by=self.leaves_behind)

    async def drain(self, device: str) -> DeviceId:
        self._ask(("drain", device))
        return DeviceId(DEVICE.device_id)

    async def undrain(self, device: str) -> DeviceId:
        self._ask(("undrain", device))
        return DeviceId(DEVICE.device_id)

    def models(self) -> list[ModelView]:
        return [MODEL]

    def model(self, name: str) -> ModelView:
        if name != MODEL.name:
            raise NotFound(f"no model {name}", advice="models here: tiny")
        return MODEL

    def deployments(self) -> list[DeploymentView]:
        return self.deployed

    async def plan(self, request: PlanRequest, standby: int = 0) -> Plan:
        self._ask((request, standby) if standby else request)
        return PLAN

    async def undeploy(self, name: str) -> None:
        self._ask(name)

    def metrics(self) -> str:
        return "# HELP glmfleet_info This coordinator.\n"

    async def telemetry(self, since_seconds: float, by: str) -> list[CostRow]:
        self._ask((since_seconds, by))
        return self.rows

    async def history(self, since_seconds: float, device: str | None = None) -> History:
        self._ask((since_seconds, device))
        return self.past

    async def percentiles(self, since_seconds: float, by: str, wanted: Sequence[float]) -> Percentiles:
        self._ask((since_seconds, by, tuple(wanted)))
        return self.distributed

    def requests(self) -> list[RequestView]:
        return [REQUEST]

    async def cancel(self, request_id: str) -> None:
        self._ask(request_id)

    async def deploy(
        self, request: PlanRequest, name: str | None = None, replicas: int = 1, policy: Policy = DEFAULT_POLICY
    ) -> AsyncIterator[DeployEvent]:
        asked = (request, name) if replicas == 1 else (request, name, replicas)
        self.asked.append(asked if policy == DEFAULT_POLICY else (*asked, policy))
        async with aclosing(self._play(EVENTS)) as events:
            async for event in events:
                yield event

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk | GenerateResult]:
        self.asked.append(request)
        told: list[TokenChunk | GenerateResult] = [*self.chunks, self.result]
        async with aclosing(self._play(told)) as parts:
            async for part in parts:
                yield part

    def _ask(self, what: object) -> None:
        self.asked.append(what)
        if isinstance(self.error, FleetError):
            raise self.error

    async def _play(self, parts: Sequence[_T]) -> AsyncGenerator[_T]:
        try:
            for number, part in enumerate(parts):
                if self.error is not None and number == self.error_at:
                    raise self.error
                if number == self.hold_at:
                    self.holding = True
                    await asyncio.Event().wait()
                yield part
        finally:
            self.closed += 1
