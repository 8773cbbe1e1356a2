"""What the API needs of a coordinator: the seam under which tests put a fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from fleet.access import AuditEntry, AuditVerdict, KeyView, NewKey
from fleet.answering.views import GenerateRequest, GenerateResult, RequestView, TokenChunk
from fleet.deploying.desired import DEFAULT_POLICY, Policy
from fleet.deploying.views import DeployEvent, DeploymentView
from fleet.devices.diagnosis import FleetDiagnosis
from fleet.devices.views import DeviceView, DiscoveryReport, LogView
from fleet.enrolling.views import DepartureView, EnrolmentView, InvitationView, JoinRequest, MembershipView, TokenView
from fleet.planning.plan import Plan, PlanRequest
from fleet.principal import Principal
from fleet.service.views import ModelView
from fleet.telemetry.views import CostRow, History, Percentiles
from protos.ids import DeviceId
from protos.recent_log import MOST_LINES


class Fleet(Protocol):
    """What the API is given: there is no call to make before it is said for whom."""

    def as_(self, caller: Principal) -> FleetService: ...


class FleetService(Protocol):
    """What one caller can ask. Every method may raise a `protos.errors.FleetError`."""

    def ready(self) -> bool:
        """Whether every deployment is."""
        ...

    def devices(self) -> list[DeviceView]: ...

    def device(self, device: str) -> DeviceView:
        """By id or name, with the last changes of its state."""
        ...

    async def drain(self, device: str) -> DeviceId:
        """It is to be switched off: nothing new goes there, and what is there moves away. Its id."""
        ...

    async def undrain(self, device: str) -> DeviceId:
        """It is used as before. Its id."""
        ...

    def discovery(self) -> DiscoveryReport: ...

    async def logs(self, device: str = "", after: int = 0, most: int = MOST_LINES) -> LogView:
        """The last lines with a number above `after` of a device's log, or of the coordinator's ("")."""
        ...

    async def diagnosis(self) -> FleetDiagnosis:
        """A closer look at every device, which takes seconds."""
        ...

    def enrolments(self) -> list[EnrolmentView]:
        """Boards that ask to be of the fleet."""
        ...

    async def accept(self, board: str) -> EnrolmentView:
        """By name, id or fingerprint."""
        ...

    async def reject(self, board: str) -> EnrolmentView: ...

    async def tokens(self) -> list[TokenView]: ...

    async def new_token(self, life_seconds: float) -> TokenView:
        """An enrolment token, told this once."""
        ...

    async def revoke_token(self, token_id: str) -> None: ...

    def invite(self) -> InvitationView:
        """For a board that calls, before it shows its token."""
        ...

    async def join(self, request: JoinRequest) -> MembershipView:
        """Takes the board in by its token."""
        ...

    async def keys(self) -> list[KeyView]:
        """Of the API, the newest first."""
        ...

    async def new_key(self, wish: NewKey) -> KeyView:
        """A key of the API, told this once."""
        ...

    async def revoke_key(self, key_id: str) -> KeyView:
        """By id or name. What it is used for meanwhile ends."""
        ...

    async def audit(self, since_seconds: float) -> list[AuditEntry]:
        """The last of what was written in the last so many seconds, oldest first."""
        ...

    async def verify_audit(self) -> AuditVerdict:
        """Whether the audit log is as it was written."""
        ...

    async def decommission(self, device: str, *, force: bool) -> DepartureView:
        """Takes it out of the fleet, and its models and key from it."""
        ...

    async def expel(self, device: str) -> DepartureView:
        """Takes it out of the fleet, whoever has it."""
        ...

    def models(self) -> list[ModelView]: ...

    def model(self, name: str) -> ModelView: ...

    def deployments(self) -> list[DeploymentView]: ...

    async def plan(self, request: PlanRequest, standby: int = 0) -> Plan:
        """Of one pipeline, with so many devices that stand by."""
        ...

    def deploy(
        self, request: PlanRequest, name: str | None = None, replicas: int = 1, policy: Policy = DEFAULT_POLICY
    ) -> AsyncIterator[DeployEvent]:
        """So many pipelines, each on devices of its own. Ends with "ready"; closing it early takes back what was done."""
        ...

    async def undeploy(self, name: str) -> None: ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk | GenerateResult]:
        """The result comes last; closing it early cancels the sequence."""
        ...

    def requests(self) -> list[RequestView]:
        """Those on their way, then the last that have ended, newest first."""
        ...

    async def cancel(self, request_id: str) -> None: ...

    async def telemetry(self, since_seconds: float, by: str) -> list[CostRow]: ...

    async def history(self, since_seconds: float, device: str | None = None) -> History:
        """How the last so many seconds went, of one device (id or name) or of all."""
        ...

    async def percentiles(self, since_seconds: float, by: str, wanted: Sequence[float]) -> Percentiles:
        """How the figures of the requests of the last so many seconds were distributed, by model or deployment."""
        ...

    def metrics(self) -> str:
        """Devices, deployments and requests in Prometheus' text format."""
        ...
