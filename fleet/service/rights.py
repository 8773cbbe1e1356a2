"""Who may make which call of FleetService: one table, which every call has to be in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fleet.principal import ROLES, Principal, Role
from protos.errors import Denied

Right: TypeAlias = Literal["see", "generate", "deploy", "enrol", "administer"]


@dataclass(frozen=True)
class Rule:
    """`right`: what a caller has to have, None: anybody may. `changes`: it changes the fleet's state, and is in the audit log."""

    right: Right | None
    changes: bool = False


# Each role has the rights of those before it.
_ADDED: Mapping[Role, tuple[Right, ...]] = {
    "viewer": ("see",),
    "user": ("generate",),
    "operator": ("deploy", "enrol"),
    "admin": ("administer",),
}
_IN_WORDS: Mapping[Right, str] = {
    "see": "see the fleet",
    "generate": "ask the models",
    "deploy": "deploy, undeploy, cancel, drain or read logs",
    "enrol": "take boards in",
    "administer": "see and change keys, tokens and the audit log, or take devices out",
}
RULES: Mapping[str, Rule] = {
    "ready": Rule(None),
    "invite": Rule(None),
    "join": Rule(None),  # the log has it where a board has joined, whichever way: whoever asks is nobody yet
    "devices": Rule("see"),
    "device": Rule("see"),
    "discovery": Rule("see"),
    "diagnosis": Rule("see"),
    "logs": Rule("deploy"),  # addresses and names of others are in it
    "enrolments": Rule("see"),
    "models": Rule("see"),
    "model": Rule("see"),
    "deployments": Rule("see"),
    "plan": Rule("see"),
    "requests": Rule("see"),
    "telemetry": Rule("see"),
    "history": Rule("see"),
    "percentiles": Rule("see"),
    "metrics": Rule("see"),
    "generate": Rule("generate"),
    "deploy": Rule("deploy", changes=True),
    "undeploy": Rule("deploy", changes=True),
    "cancel": Rule("deploy", changes=True),
    "drain": Rule("deploy", changes=True),
    "undrain": Rule("deploy", changes=True),
    "accept": Rule("enrol", changes=True),
    "reject": Rule("enrol", changes=True),
    "decommission": Rule("administer", changes=True),
    "expel": Rule("administer", changes=True),
    "tokens": Rule("administer"),
    "new_token": Rule("administer", changes=True),
    "revoke_token": Rule("administer", changes=True),
    "keys": Rule("administer"),
    "new_key": Rule("administer", changes=True),
    "revoke_key": Rule("administer", changes=True),
    "audit": Rule("administer"),
    "verify_audit": Rule("administer"),
}


def rights_of(role: str) -> frozenset[Right]:
    """None for a role that is not in the table."""
    if role not in ROLES:
        return frozenset()
    return frozenset(right for one in ROLES[: ROLES.index(role) + 1] for right in _ADDED[one])


def roles_with(right: Right) -> list[Role]:
    return [role for role in ROLES if right in rights_of(role)]


def rule_for(caller: Principal, call: str) -> Rule:
    """The rule of a call that the caller may make. Raises Denied naming the right that it lacks."""
    rule = RULES.get(call)
    if rule is None:
        raise Denied(f"nobody may call {call}: it has no rule", advice="this is a defect of glmfleet; please report it")
    if rule.right is not None and rule.right not in rights_of(caller.role):
        who = f"{caller.name} ({caller.role})" if caller.role != "anyone" else "whoever shows no key"
        roles = " or ".join(roles_with(rule.right))
        raise Denied(
            f"{who} may not {_IN_WORDS[rule.right]}: the right {rule.right!r} is missing", advice=f"use a key with the role {roles}"
        )
    return rule
