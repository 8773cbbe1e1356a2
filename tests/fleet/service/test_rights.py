"""Who may make which call: the table, and that no call gets past it."""

from __future__ import annotations

import inspect

import pytest

from fleet.principal import ANYONE, ROLES, Principal
from fleet.service import rights
from fleet.service.bound import CALLS
from fleet.service.rights import RULES, rights_of, rule_for
from protos.errors import Denied
from tests.support.fake_coordinator import FakeCoordinator

# Written out, so that a right which is given away by mistake is seen here.
LEAST: dict[str, set[str]] = {
    "anyone": {"ready", "invite", "join"},
    "viewer": {
        "devices",
        "device",
        "discovery",
        "diagnosis",
        "enrolments",
        "models",
        "model",
        "deployments",
        "plan",
        "requests",
        "telemetry",
        "history",
        "percentiles",
        "metrics",
    },
    "user": {"generate"},
    "operator": {"logs", "deploy", "undeploy", "cancel", "drain", "undrain", "accept", "reject"},
    "admin": {"decommission", "expel", "tokens", "new_token", "revoke_token", "keys", "new_key", "revoke_key", "audit", "verify_audit"},
}


def test_every_call_has_a_rule_and_every_rule_a_call() -> None:
    assert set(RULES) == CALLS
    assert set().union(*LEAST.values()) == CALLS


@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_call_is_for_its_role_and_those_above(call: str) -> None:
    order = ["anyone", *ROLES]
    least = next(role for role in order if call in LEAST[role])
    for role in order:
        caller = Principal("somebody", role)  # type: ignore[arg-type]
        if order.index(role) >= order.index(least):
            assert rule_for(caller, call) == RULES[call]
        else:
            with pytest.raises(Denied, match="is missing") as caught:
                rule_for(caller, call)
            assert repr(RULES[call].right) in caught.value.detail
            assert least in caught.value.advice


def test_what_is_in_no_table_is_refused_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "RULES", {name: rule for name, rule in RULES.items() if name != "devices"})
    with pytest.raises(Denied, match="it has no rule"):
        FakeCoordinator().as_(Principal("root", "admin")).devices()
    assert rights_of("superuser") == frozenset()
    with pytest.raises(Denied):
        rule_for(Principal("x", "superuser"), "telemetry")  # type: ignore[arg-type]


@pytest.mark.parametrize("call", sorted(CALLS - LEAST["anyone"]))
async def test_what_is_refused_never_reaches_the_coordinator(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []
    coordinator = FakeCoordinator()
    original = getattr(FakeCoordinator, call)
    service = coordinator.as_(ANYONE)
    arguments = [object() for name in list(inspect.signature(original).parameters)[1:]]
    monkeypatch.setattr(coordinator, "_ask", lambda what: reached.append(call))

    async def ask() -> None:
        made = getattr(service, call)(*arguments)
        await (anext(aiter(made)) if hasattr(made, "__aiter__") else made)

    with pytest.raises(Denied):
        await ask()
    assert reached == coordinator.asked == []
    assert coordinator.log.lines == []  # strangers write no end of lines
