"""The coordinator as the commands see it: typed calls over HTTP."""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from fleet.access import AuditEntry, AuditVerdict, KeyView, NewKey
from fleet.answering.views import GenerateRequest, GenerateResult, RequestView, TokenChunk
from fleet.api.encode import plain
from fleet.deploying.desired import DEFAULT_POLICY, Policy
from fleet.deploying.views import DeployEvent, DeploymentView
from fleet.devices.diagnosis import FleetDiagnosis
from fleet.devices.views import DeviceView, DiscoveryReport, LogView
from fleet.enrolling.views import DepartureView, EnrolmentView, InvitationView, JoinRequest, MembershipView, TokenView
from fleet.home import Home
from fleet.planning.plan import Plan, PlanRequest
from fleet.service.views import ModelView
from fleet.telemetry.views import CostRow, History, Percentiles
from fleet.trust.api_key import shown
from fleet.trust.login import certificate_der, public_der, read_login
from protos.errors import Denied, FleetError, Internal, InvalidInput, TemporaryError, Unavailable, by_name
from protos.ids import DeviceId, FleetId, api_host_name, fleet_id
from protos.net import https
from protos.recent_log import MOST_LINES

_T = TypeVar("_T")
# A step of a deployment or a long prompt may take minutes; an answer that never comes ends with Ctrl-C.
_TIMEOUT = httpx.Timeout(10.0, read=None)
# An answer whose connection was lost is asked for again, so often and for so long.
AGAIN_SECONDS, GIVE_UP_SECONDS = 0.3, 60.0


class Lost(Unavailable):
    """The coordinator went away in the middle of its answer."""


@contextmanager
def connect(home: Home) -> Iterator[CoordinatorClient]:
    """A client of the coordinator that this home is logged in at, else of the one that serves it. Raises Unavailable when none runs."""
    if (login := read_login(home)) is not None:
        headers = {"Authorization": f"Bearer {login.key}"}
        with _pinned(f"https://{login.address}", login.authority, login.fleet, headers) as http:
            yield CoordinatorClient(http)
        return
    running = home.running_coordinator()
    if running is None:
        advice = f"start one: glmfleet serve{home.option}; or use another machine's: glmfleet login ADDRESS"
        raise Unavailable(f"no coordinator is running for this home ({home.path})", advice=advice)
    if running.url.startswith("https:"):
        authority = _authority_of(home)
        with _pinned(running.url, authority, fleet_id(public_der(authority)), shown(home)) as http:
            yield CoordinatorClient(http, home)
        return
    # trust_env off: a proxy of the environment has no business on loopback.
    with httpx.Client(base_url=running.url, headers=shown(home), timeout=_TIMEOUT, trust_env=False) as http:
        yield CoordinatorClient(http, home)


def _pinned(url: str, authority: str, fleet: FleetId, headers: dict[str, str]) -> httpx.Client:
    """A client that talks to a coordinator of this fleet alone, whatever its address is called."""

    def name_the_fleet(request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = api_host_name(fleet)  # the name that the certificate has to have

    return httpx.Client(
        base_url=url,
        headers=headers,
        timeout=_TIMEOUT,
        trust_env=False,
        verify=https.pinned(certificate_der(authority)),
        event_hooks={"request": [name_the_fleet]},
    )


def _authority_of(home: Home) -> str:
    try:
        return (home.authority / "certificate.pem").read_text()
    except OSError as error:
        raise InvalidInput(f"cannot read the fleet's certificate: {error.strerror}", advice="run as the user who owns the home") from error


class CoordinatorClient:
    """Each call raises the FleetError that the coordinator answered with, or Unavailable when it does not answer."""

    def __init__(self, http: httpx.Client, home: Home | None = None) -> None:
        """`home`: whose coordinator it is, which may be at another address when it was started again."""
        self._http = http
        self._home = home
        self.lost: Callable[[FleetError], None] = lambda _: None

    def devices(self) -> list[DeviceView]:
        return self._get(list[DeviceView], "/api/v1/devices")

    def device(self, device: str) -> DeviceView:
        return self._get(DeviceView, f"/api/v1/devices/{quote(device, safe='')}")

    def discovery(self) -> DiscoveryReport:
        return self._get(DiscoveryReport, "/api/v1/discovery")

    def logs(self, device: str = "", after: int = 0, most: int = MOST_LINES) -> LogView:
        return self._get(LogView, "/api/v1/logs", {"device": device, "after": str(after), "most": str(most)})

    def diagnosis(self) -> FleetDiagnosis:
        return self._get(FleetDiagnosis, "/api/v1/diagnosis")

    def enrolments(self) -> list[EnrolmentView]:
        return self._get(list[EnrolmentView], "/api/v1/enrolments")

    def accept(self, board: str) -> EnrolmentView:
        return _decode(EnrolmentView, self._call("POST", f"/api/v1/enrolments/{quote(board, safe='')}"))

    def decommission(self, device: str, *, force: bool) -> DepartureView:
        path = f"/api/v1/devices/{quote(device, safe='')}?force={str(force).lower()}"
        return _decode(DepartureView, self._call("DELETE", path))

    def expel(self, device: str) -> DepartureView:
        return _decode(DepartureView, self._call("POST", f"/api/v1/devices/{quote(device, safe='')}/revoke"))

    def drain(self, device: str) -> DeviceId:
        return DeviceId(_decode(DeviceView, self._call("POST", f"/api/v1/devices/{quote(device, safe='')}/drain")).device_id)

    def undrain(self, device: str) -> DeviceId:
        return DeviceId(_decode(DeviceView, self._call("POST", f"/api/v1/devices/{quote(device, safe='')}/undrain")).device_id)

    def reject(self, board: str) -> EnrolmentView:
        return _decode(EnrolmentView, self._call("DELETE", f"/api/v1/enrolments/{quote(board, safe='')}"))

    def tokens(self) -> list[TokenView]:
        return self._get(list[TokenView], "/api/v1/tokens")

    def new_token(self, life_seconds: float) -> TokenView:
        return _decode(TokenView, self._call("POST", "/api/v1/tokens", json={"life_seconds": life_seconds}))

    def revoke_token(self, token_id: str) -> None:
        self._call("DELETE", f"/api/v1/tokens/{quote(token_id, safe='')}")

    def ready(self) -> bool:
        with _named(self._http):
            return self._http.get("/readyz").is_success

    def invite(self) -> InvitationView:
        return self._get(InvitationView, "/api/v1/join")

    def join(self, request: JoinRequest) -> MembershipView:
        """The coordinator takes the host of the address that this comes from, and of the request's the port."""
        body = dataclasses.asdict(request)
        _, _, port = str(body.pop("address")).rpartition(":")
        return _decode(MembershipView, self._call("POST", "/api/v1/join", json={**body, "port": int(port)}))

    def keys(self) -> list[KeyView]:
        return self._get(list[KeyView], "/api/v1/keys")

    def new_key(self, wish: NewKey) -> KeyView:
        return _decode(KeyView, self._call("POST", "/api/v1/keys", json=plain(wish)))

    def revoke_key(self, key_id: str) -> KeyView:
        return _decode(KeyView, self._call("DELETE", f"/api/v1/keys/{_step(key_id)}"))

    def audit(self, since_seconds: float) -> list[AuditEntry]:
        return self._get(list[AuditEntry], "/api/v1/audit", {"since": str(since_seconds)})

    def verify_audit(self) -> AuditVerdict:
        return self._get(AuditVerdict, "/api/v1/audit/verdict")

    def models(self) -> list[ModelView]:
        return self._get(list[ModelView], "/api/v1/models")

    def model(self, name: str) -> ModelView:
        return self._get(ModelView, f"/api/v1/models/{_step(name)}")

    def deployments(self) -> list[DeploymentView]:
        return self._get(list[DeploymentView], "/api/v1/deployments")

    def telemetry(self, since_seconds: float, by: str) -> list[CostRow]:
        return self._get(list[CostRow], "/api/v1/telemetry", {"since": str(since_seconds), "by": by})

    def history(self, since_seconds: float, device: str | None = None) -> History:
        query = {"since": str(since_seconds), **({} if device is None else {"device": device})}
        return self._get(History, "/api/v1/telemetry/history", query)

    def percentiles(self, since_seconds: float, by: str, wanted: Sequence[float]) -> Percentiles:
        query = {"since": str(since_seconds), "by": by, "percentile": [str(one) for one in wanted]}
        return self._get(Percentiles, "/api/v1/telemetry/percentiles", query)

    def metrics(self) -> str:
        with _named(self._http):
            response = self._http.get("/metrics")
        _check(response)
        return response.text

    def plan(self, request: PlanRequest, standby: int = 0) -> Plan:
        return _decode(Plan, self._call("POST", "/api/v1/plans", json={**plain(request), "standby": standby}))

    def undeploy(self, name: str) -> None:
        self._call("DELETE", f"/api/v1/deployments/{_step(name)}")

    def requests(self) -> list[RequestView]:
        return self._get(list[RequestView], "/api/v1/requests")

    def cancel(self, request_id: str) -> None:
        self._call("DELETE", f"/api/v1/requests/{_step(request_id)}")

    def deploy(
        self, request: PlanRequest, name: str | None = None, replicas: int = 1, policy: Policy = DEFAULT_POLICY
    ) -> Generator[DeployEvent]:
        """Leaving early (closing the iterator, Ctrl-C) makes the coordinator take back what it did."""
        for _, data in self._events("/api/v1/deployments", {**plain(request), **plain(policy), "name": name, "replicas": replicas}):
            yield _decode(DeployEvent, data)

    def generate(self, request: GenerateRequest) -> Generator[TokenChunk | GenerateResult]:
        """The result comes last; leaving early cancels the sequence.

        When the connection is lost on the way, `lost` hears of it, and the answer is asked for again where it was, for a while.
        """
        key, tokens, lost_at = request.idempotency_key or secrets.token_hex(16), request.resume_after, math.inf
        while True:
            headers = {"Idempotency-Key": key, "Last-Event-ID": str(tokens)}
            try:
                for kind, data in self._events("/api/v1/generate", _generate_body(request), headers):
                    if kind != "token":
                        yield _decode(GenerateResult, data)
                        return
                    chunk = _decode(TokenChunk, data)
                    tokens, lost_at = tokens + len(chunk.token_ids), math.inf
                    yield chunk
            except TemporaryError as error:
                if lost_at == math.inf:
                    if not isinstance(error, Lost):
                        raise
                    lost_at = time.monotonic()
                    self.lost(error)
                elif time.monotonic() >= lost_at + GIVE_UP_SECONDS:
                    raise
            time.sleep(AGAIN_SECONDS)
            self._look_where_it_is()

    def _look_where_it_is(self) -> None:
        running = self._home.running_coordinator() if self._home else None
        if running is not None:
            self._http.base_url = running.url

    def _get(self, shape: type[_T], path: str, query: Mapping[str, str | Sequence[str]] | None = None) -> _T:
        return _decode(shape, self._call("GET", path, params=query))

    def _call(self, method: str, path: str, **how: Any) -> Any:
        with _named(self._http):
            response = self._http.request(method, path, **how)
        _check(response)
        return response.json() if response.content else None

    def _events(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Generator[tuple[str, Any]]:
        with _named(self._http), self._http.stream("POST", path, json=body, headers=headers) as response:
            if response.is_error:
                response.read()
            _check(response)
            ended = False
            for name, data in parse_events(response.iter_lines()):
                if name == "error":
                    raise _error(data)
                ended = name in ("done", "ready")
                yield name, data
            if not ended:
                raise Lost("the coordinator ended its answer early", advice="look at the terminal of glmfleet serve")


def parse_events(lines: Iterator[str]) -> Generator[tuple[str, Any]]:
    """(name, data as JSON) of each server-sent event."""
    name = data = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data = value
        elif not line and data:
            yield name, json.loads(data)
            name = data = ""


def _step(name: str) -> str:
    """One step of a path: in a name, ? and / are no marks of an address."""
    return quote(name, safe="")


def _generate_body(request: GenerateRequest) -> dict[str, Any]:
    """The sampling parameters are fields beside the others, without those that are left to the model; and what the request has as the text
    of an object is one."""
    body: dict[str, Any] = plain(request)
    del body["idempotency_key"], body["resume_after"]  # they are headers
    del body["embedding"]  # which has a route of its own
    left, sampling = body.pop("left_to_model"), body.pop("sampling")
    given = {name: value for name, value in sampling.items() if name not in left}
    bias = dict(request.logit_bias)
    schema = json.loads(request.json_schema) if request.json_schema else None
    return {
        **body,
        **given,
        "logit_bias": bias,
        "json_schema": schema,
        "chat_template_kwargs": json.loads(request.chat_template_kwargs or "{}"),
    }


def _decode(shape: type[_T], data: Any) -> _T:
    return TypeAdapter(shape).validate_python(data)


def _check(response: httpx.Response) -> None:
    if not response.is_error:
        return
    try:
        body = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        raise Internal(f"the coordinator answered {response.status_code} without saying why") from None
    raise _error(body)


def _error(body: dict[str, Any]) -> FleetError:
    error = by_name(str(body.get("code", "")), str(body.get("detail", "")))
    error.advice = str(body.get("advice", ""))
    return error


@contextmanager
def _named(http: httpx.Client) -> Iterator[None]:
    """httpx's errors become ours, in our words."""
    try:
        yield
    except (httpx.ConnectError, httpx.TimeoutException) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            advice = "is another one at this address now? `glmfleet login` again, if you trust it"
            raise Denied(f"{http.base_url} is no coordinator of the fleet that this home knows", advice=advice) from error
        advice = "does `glmfleet serve` run there? it may be starting or stopping"
        raise Unavailable(f"the coordinator at {http.base_url} does not answer", advice=advice) from error
    except httpx.TransportError as error:
        raise Lost(f"the coordinator at {http.base_url} went away", advice="look at the terminal of glmfleet serve") from error
