"""What a call leaves behind: lines of the audit log, and tokens that were spent."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from fleet.access import NewKey
from fleet.answering.views import GenerateRequest, GenerateResult, TokenChunk
from fleet.planning.plan import PlanRequest
from fleet.principal import OverBudget, Principal, Unauthenticated
from fleet.service.bound import CALLS, bound
from fleet.service.rights import RULES
from protos.errors import Conflict, Denied, NoSpace
from tests.support.fake_coordinator import BOARD, DEPLOYMENT, RESULT, FakeCoordinator, Unlimited
from tests.support.waiting import wait_until

ADMIN = Principal("ann", "admin", "1f2e3d4c")
SECRET = "the prompt that nobody may read"  # pragma: allowlist secret


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator()


async def make(coordinator: FakeCoordinator, caller: Principal, call: str) -> None:
    service = coordinator.as_(caller)
    match call:
        case "deploy":
            async for _ in service.deploy(PlanRequest("tiny", devices=("dev-1",)), "prod"):
                pass
        case "undeploy":
            await service.undeploy("tiny")
        case "cancel":
            await service.cancel("r1")
        case "accept":
            await service.accept("gate-7")
        case "reject":
            await service.reject(BOARD.fingerprint)
        case "decommission":
            await service.decommission("dev-1", force=True)
        case "expel":
            await service.expel("dev-1")
        case "drain":
            await service.drain("dev-1")
        case "undrain":
            await service.undrain("dev-1")
        case "new_token":
            await service.new_token(60.0)
        case "revoke_token":
            await service.revoke_token("0a1b2c3d")
        case "new_key":
            await service.new_key(NewKey("dashboard", "viewer", 60.0))
        case "revoke_key":
            await service.revoke_key("dashboard")
        case _:
            raise AssertionError(f"nobody has tried {call}")


BEFORE_AND_AFTER = {
    "deploy": ("absent", "absent"),  # the fake deploys nothing
    "undeploy": ("ready: tiny dddddddddddd on dev-1", "ready: tiny dddddddddddd on dev-1"),
    "cancel": ("ended", "ended"),
    "accept": ("abcdefgh22334455 (gate-7) at 10.0.0.7:7420 asks to join", "abcdefgh22334455 is of the fleet"),
    "reject": ("abcdefgh22334455 (gate-7) at 10.0.0.7:7420 asks to join",) * 2,
    "decommission": ("aaaabbbbccccdddd (dev-1) is online",) * 2,  # nor does it part with a device
    "expel": ("aaaabbbbccccdddd (dev-1) is online",) * 2,
    "drain": ("aaaabbbbccccdddd (dev-1) is online",) * 2,
    "undrain": ("aaaabbbbccccdddd (dev-1) is online",) * 2,
    "new_token": ("", "token 0a1b2c3d, good until 2001-09-09T01:46:40Z"),
    "revoke_token": ("used by abcdefgh22334455",) * 2,
    "new_key": ("", "key 1f2e3d4c, viewer, good until 2033-05-18T03:33:20Z"),
    "revoke_key": ("1f2e3d4c (dashboard, viewer): good",) * 2,
}


@pytest.mark.parametrize("call", sorted(name for name in CALLS if RULES[name].changes))
async def test_a_change_has_a_line_before_and_one_after(coordinator: FakeCoordinator, call: str) -> None:
    coordinator.asking = [BOARD]
    await make(coordinator, ADMIN, call)
    begun, done = coordinator.log.lines
    assert (begun["who"], begun["call"], begun["outcome"], done["outcome"], done["of"]) == ("ann", call, "begun", "done", 1)
    assert (begun["before"], done["after"]) == BEFORE_AND_AFTER[call]
    assert "secret" not in json.dumps(coordinator.log.lines)


@pytest.mark.parametrize("call", sorted(name for name in CALLS if RULES[name].changes))
async def test_who_may_not_has_one_line_and_changes_nothing(coordinator: FakeCoordinator, call: str) -> None:
    with pytest.raises(Denied):
        await make(coordinator, Principal("bob", "viewer"), call)
    [line] = coordinator.log.lines
    assert (line["who"], line["call"], line["outcome"]) == ("bob", call, "refused")
    assert coordinator.asked == []


@pytest.mark.parametrize("call", ["undeploy", "deploy", "accept"])
async def test_what_cannot_be_written_down_is_not_done(coordinator: FakeCoordinator, call: str) -> None:
    coordinator.log.error = NoSpace("the disk is full")
    with pytest.raises(NoSpace):
        await make(coordinator, ADMIN, call)
    assert coordinator.asked == []


async def test_a_change_that_fails_says_why(coordinator: FakeCoordinator) -> None:
    coordinator.error = Conflict("it is being deployed")
    with pytest.raises(Conflict):
        await make(coordinator, ADMIN, "undeploy")
    assert (coordinator.log.lines[-1]["outcome"], coordinator.log.lines[-1]["detail"]) == ("failed", "it is being deployed")


async def test_a_deployment_that_its_client_leaves_is_broken_off(coordinator: FakeCoordinator) -> None:
    events = coordinator.as_(ADMIN).deploy(PlanRequest("tiny"))
    await anext(aiter(events))
    await events.aclose()  # type: ignore[attr-defined]
    assert [line["outcome"] for line in coordinator.log.lines] == ["begun", "broken off"]
    assert coordinator.closed == 1


async def test_and_one_whose_task_is_cancelled_too(coordinator: FakeCoordinator) -> None:
    coordinator.hold_at = 1
    task = asyncio.create_task(make(coordinator, ADMIN, "deploy"))
    await wait_until(lambda: coordinator.holding)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [line["outcome"] for line in coordinator.log.lines] == ["begun", "broken off"]


async def test_what_is_asked_of_a_model_is_in_no_line(coordinator: FakeCoordinator) -> None:
    async for _ in coordinator.as_(ADMIN).generate(GenerateRequest(prompt=SECRET)):
        pass
    await coordinator.as_(ADMIN).plan(PlanRequest("tiny"))
    assert coordinator.log.lines == []


async def test_an_answer_is_counted_for_its_key(coordinator: FakeCoordinator) -> None:
    parts = [part async for part in coordinator.as_(ADMIN).generate(GenerateRequest(prompt=SECRET))]
    assert parts[-1] == RESULT
    assert coordinator.budget.spent == [("1f2e3d4c", RESULT.prompt_tokens + RESULT.completion_tokens)]
    coordinator.budget.spent.clear()
    left = coordinator.as_(ADMIN).generate(GenerateRequest(prompt=SECRET))
    assert isinstance(await anext(aiter(left)), TokenChunk)
    await left.aclose()  # type: ignore[attr-defined]
    assert coordinator.budget.spent == [("1f2e3d4c", 1 + len(SECRET) // 4)]


async def test_one_that_fails_before_its_first_token_costs_nothing(coordinator: FakeCoordinator) -> None:
    coordinator.error = Conflict("no")
    with pytest.raises(Conflict):
        await anext(aiter(coordinator.as_(ADMIN).generate(GenerateRequest(prompt=SECRET))))
    assert coordinator.budget.spent == [("1f2e3d4c", 0)]


class _Spent(Unlimited):
    def check(self, key_id: str) -> None:
        raise OverBudget("spent", "tokens", advice="wait", retry_after_seconds=60.0)


class _RevokedMeanwhile(Unlimited):
    looked = 0

    def still_good(self, key_id: str) -> None:
        self.looked += 1
        if self.looked > 1:
            raise Unauthenticated("the key ann was revoked", "revoked_key")


async def test_without_a_budget_nothing_is_asked(coordinator: FakeCoordinator) -> None:
    service = bound(coordinator, ADMIN, coordinator.log, _Spent())
    with pytest.raises(OverBudget):
        await anext(aiter(service.generate(GenerateRequest(prompt=SECRET))))
    assert coordinator.asked == []


async def test_an_answer_ends_with_its_key(coordinator: FakeCoordinator) -> None:
    service, got = bound(coordinator, ADMIN, coordinator.log, _RevokedMeanwhile()), list[TokenChunk | GenerateResult]()

    async def ask() -> None:
        async for part in service.generate(GenerateRequest(prompt=SECRET)):
            got.append(part)

    with pytest.raises(Unauthenticated):
        await ask()
    assert (len(got), coordinator.closed) == (1, 1)


async def test_a_deployment_s_state_is_looked_up_by_its_name(coordinator: FakeCoordinator) -> None:
    coordinator.deployed = [replace(DEPLOYMENT, name="prod", state="degraded")]
    await make(coordinator, ADMIN, "deploy")
    assert str(coordinator.log.lines[0]["before"]).startswith("degraded: tiny")
