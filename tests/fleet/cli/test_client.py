"""Each call of FleetService through its HTTP client, a socket and its route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from device.text.messages import Message, ToolCall
from fleet.access import NewKey
from fleet.answering.views import GenerateRequest
from fleet.api.generate import GenerateBody
from fleet.cli.client import CoordinatorClient, _generate_body, connect
from fleet.devices.views import LogView
from fleet.enrolling.views import DepartureView, JoinRequest
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from fleet.principal import ANYONE, LOCAL_ADMIN
from fleet.service.bound import CALLS
from protos.errors import Unavailable
from protos.sampling import Sampling
from tests.support.fake_coordinator import (
    BOARD,
    CHUNKS,
    DEPLOYMENT,
    DEVICE,
    DIAGNOSIS,
    EVENTS,
    INVITATION,
    KEY,
    LINE,
    MEMBERSHIP,
    MODEL,
    PAST,
    PERCENTILES,
    PLAN,
    REQUEST,
    RESULT,
    ROW,
    TOKEN,
    VERDICT,
    FakeCoordinator,
)

WISH = PlanRequest(
    "tiny", "energy", stages=2, context=64, slots=4, devices=("dev-1",), kv_dtype="int8", wire_dtype="float16", decode="pairs"
)
ASKED = GenerateRequest(
    model="tiny",
    messages=(Message("user", "hi", name="Ann"), Message("assistant", "", (ToolCall("f", "{}"),), "so", "meta")),
    tools=("{}",),
    forced_ids=(1, 2),
    max_tokens=9,
    idempotency_key="a key",
    sampling=Sampling(temperature=0.5, top_k=3, top_p=0.9, seed=2**64 - 1, min_p=0.05, repetition_penalty=1.5, typical_p=0.5),
    logit_bias=((5, -1.5),),
    stop=("END",),
    stop_token_ids=(3,),
    min_tokens=2,
    allowed_token_ids=(4, 5),
    bad_words=("foo",),
    chat_template_kwargs='{"enable_thinking": false}',
    add_generation_prompt=False,
    ignore_eos=True,
    reuse_decoded=True,
    infill=True,
    fills=((7, 8),),
    timeout_seconds=2.5,
)
CALLING = JoinRequest("127.0.0.1:7420", "a request", "00ff", "aa", "bb")
WISHED = NewKey("dashboard", "viewer", 60.0, 10, 1000)
OPEN_CALLS = {"ready": [ANYONE, LOCAL_ADMIN], "invite": [ANYONE], "join": [ANYONE]}  # of routes for everybody
# Of each call: how it is made, what comes back, what the coordinator was asked.
EXPECTED: dict[str, tuple[Callable[[CoordinatorClient], Any], Any, list[object]]] = {
    "devices": (lambda client: client.devices(), [DEVICE], []),
    "device": (lambda client: client.device("dev-1"), DEVICE, []),
    "metrics": (lambda client: client.metrics(), FakeCoordinator().metrics(), []),
    "discovery": (lambda client: client.discovery(), FakeCoordinator().discovery(), []),
    "models": (lambda client: client.models(), [MODEL], []),
    "model": (lambda client: client.model("tiny"), MODEL, []),
    "diagnosis": (lambda client: client.diagnosis(), DIAGNOSIS, ["diagnosis"]),
    "logs": (lambda client: client.logs("dev 1?", 0, 7), LogView("dev 1?", "boot", tuple(FakeCoordinator().logged)), [("dev 1?", 0, 7)]),
    "enrolments": (lambda client: client.enrolments(), [BOARD], []),
    "accept": (lambda client: client.accept("diamond machine"), BOARD, [("accept", "diamond machine")]),
    "reject": (lambda client: client.reject("gate 7?c"), BOARD, [("reject", "gate 7?c")]),
    "tokens": (lambda client: client.tokens(), [TOKEN], []),
    "new_token": (lambda client: client.new_token(60.0), replace(TOKEN, token="glmfleet-secret", used_by=""), [("new_token", 60.0)]),
    "revoke_token": (lambda client: client.revoke_token("0a1b"), None, [("revoke_token", "0a1b")]),
    "decommission": (
        lambda client: client.decommission("dev 1?", force=True),
        DepartureView(DEVICE.device_id, "dev-1", True),
        [("decommission", "dev 1?", True)],
    ),
    "expel": (lambda client: client.expel("dev 1?"), DepartureView(DEVICE.device_id, "dev-1", False), [("expel", "dev 1?")]),
    "drain": (lambda client: client.drain("dev 1?"), DEVICE.device_id, [("drain", "dev 1?")]),
    "undrain": (lambda client: client.undrain("dev 1?"), DEVICE.device_id, [("undrain", "dev 1?")]),
    "ready": (lambda client: client.ready(), True, []),
    "invite": (lambda client: client.invite(), INVITATION, []),
    "join": (lambda client: client.join(CALLING), MEMBERSHIP, [CALLING]),
    "keys": (lambda client: client.keys(), [KEY], []),
    "new_key": (lambda client: client.new_key(WISHED), replace(KEY, key="glmfleet-key-secret"), [WISHED]),
    "revoke_key": (lambda client: client.revoke_key("gate 7?"), replace(KEY, state="revoked"), [("revoke_key", "gate 7?")]),
    "audit": (lambda client: client.audit(60.0), [LINE], [("audit", 60.0)]),
    "verify_audit": (lambda client: client.verify_audit(), VERDICT, []),
    "deployments": (lambda client: client.deployments(), [DEPLOYMENT], []),
    "plan": (lambda client: client.plan(WISH), PLAN, [WISH]),
    "deploy": (lambda client: list(client.deploy(WISH, "prod", 3)), list(EVENTS), [(WISH, "prod", 3)]),
    "requests": (lambda client: client.requests(), [REQUEST], []),
    "cancel": (lambda client: client.cancel("r1"), None, ["r1"]),
    "undeploy": (lambda client: client.undeploy("tiny"), None, ["tiny"]),
    "generate": (lambda client: list(client.generate(ASKED)), [*CHUNKS, RESULT], [ASKED]),
    "telemetry": (lambda client: client.telemetry(90.0, "model"), [ROW], [(90.0, "model")]),
    "percentiles": (
        lambda client: client.percentiles(90.0, "model", (50.0, 99.5)),
        PERCENTILES,
        [(90.0, "model", (50.0, 99.5))],
    ),
    "history": (lambda client: client.history(90.0, "dev 1?"), PAST, [(90.0, "dev 1?")]),
}


def test_every_call_is_here() -> None:
    assert set(EXPECTED) == CALLS


@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_call_arrives_as_it_was_made_and_so_does_its_answer(served: Home, coordinator: FakeCoordinator, call: str) -> None:
    make, answer, asked = EXPECTED[call]
    coordinator.asking = [BOARD]
    with connect(served) as client:
        assert make(client) == answer
    assert coordinator.asked == asked
    assert coordinator.callers == OPEN_CALLS.get(call, [LOCAL_ADMIN])


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (httpx.ConnectError("[Errno 111] Connection refused"), "does not answer"),
        (httpx.ConnectTimeout("timed out"), "does not answer"),
        (httpx.RemoteProtocolError("peer closed connection without sending complete message body"), "went away"),
        (httpx.ReadError("[Errno 104]"), "went away"),
    ],
)
def test_the_library_s_words_reach_nobody(failure: httpx.TransportError, told: str) -> None:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise failure

    with httpx.Client(transport=httpx.MockTransport(fail), base_url="http://coordinator") as http, pytest.raises(Unavailable) as caught:
        CoordinatorClient(http).devices()
    assert caught.value.detail == f"the coordinator at http://coordinator {told}"
    assert caught.value.advice


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest(prompt="hi"),
        GenerateRequest(
            messages=(Message("user", "hi"),), tools=('{"name": "f"}',), json_schema='{"type": "object"}', logit_bias=((5, 1.5),)
        ),
        GenerateRequest(
            prompt_ids=(1, 2), echo=True, prompt_logprobs=3, sampling=Sampling(temperature=0.5, seed=7), stop=("x",), logit_bias=((5, 1.5),)
        ),
    ],
)
def test_every_field_that_is_sent_is_known_there(request_: GenerateRequest) -> None:
    """Whatever a request gets more is either a field of the API, or none of this one's."""
    asked = GenerateBody.model_validate(_generate_body(request_)).request()
    assert replace(asked, left_to_model=(), json_schema="") == replace(request_, left_to_model=(), json_schema="")
