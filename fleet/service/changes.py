"""What the audit log says of a change: its arguments, and the state of what it is about, in short."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fleet.access import NewKey
from fleet.deploying.desired import Policy
from fleet.planning.plan import PlanRequest
from fleet.service.protocol import FleetService
from protos.enrolment import words
from protos.errors import FleetError
from protos.ids import DeviceId

_SHOWN = (PlanRequest, Policy, NewKey)  # of these all fields; of others than texts and numbers nothing: a prompt might be there


def arguments_of(call: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, object]:
    """By name, those that are not left to their default."""
    bound = inspect.signature(getattr(FleetService, call)).bind(None, *given, **named)
    arguments = {name: value for name, value in bound.arguments.items() if name != "self"}
    return {name: _shown(value) for name, value in arguments.items() if value is not None}


async def state_before(service: FleetService, call: str, arguments: Mapping[str, object]) -> str:
    """Of what the call is about to change; "" where there is nothing yet."""
    return await _told(service, call, arguments)


async def state_after(service: FleetService, call: str, arguments: Mapping[str, object], result: object) -> str:
    """`result` is what the call has returned."""
    match call:
        case "new_token":
            return f"token {getattr(result, 'token_id', '?')}, good until {_when(getattr(result, 'expires', None))}"
        case "new_key":
            made, role = getattr(result, "key_id", "?"), getattr(result, "role", "?")
            return f"key {made}, {role}, good until {_when(getattr(result, 'expires', None))}"
        case "accept":
            return f"{getattr(result, 'device_id', '?')} is of the fleet"
    return await _told(service, call, arguments)


async def _told(service: FleetService, call: str, arguments: Mapping[str, object]) -> str:
    look = _STATES.get(call)
    try:
        return await look(service, arguments) if look is not None else ""
    except FleetError as error:
        return f"not known: {error.detail}"


async def _deployment(service: FleetService, arguments: Mapping[str, object]) -> str:
    request = arguments.get("request")
    name = arguments.get("name") or (request.get("model") if isinstance(request, dict) else None)
    for view in service.deployments():
        if view.name == name:
            devices = ", ".join(dict.fromkeys(stage.device_name for pipeline in view.pipelines for stage in pipeline.stages))
            return f"{view.state}: {view.model} {view.manifest_digest[:12]} on {devices}"
    return "absent"


async def _board(service: FleetService, arguments: Mapping[str, object]) -> str:
    key = str(arguments.get("board", ""))
    for view in service.enrolments():
        if key in (view.device_id, view.name) or " ".join(key.lower().split()) == words(DeviceId(view.device_id)):
            return f"{view.device_id} ({view.name}) at {view.address} asks to join"
    return "not asking"


async def _device(service: FleetService, arguments: Mapping[str, object]) -> str:
    for view in service.devices():
        if arguments.get("device") in (view.device_id, view.name):
            return f"{view.device_id} ({view.name}) is {view.state}{f' and {view.drain}' if view.drain else ''}"
    return "not of the fleet"


async def _token(service: FleetService, arguments: Mapping[str, object]) -> str:
    for view in await service.tokens():
        if view.token_id == arguments.get("token_id"):
            return f"used by {view.used_by}" if view.used_by else f"good until {_when(view.expires)}"
    return "absent"


async def _key(service: FleetService, arguments: Mapping[str, object]) -> str:
    for view in await service.keys():
        if arguments.get("key_id") in (view.key_id, view.name):
            return f"{view.key_id} ({view.name}, {view.role}): {view.state}"
    return "absent"


async def _request(service: FleetService, arguments: Mapping[str, object]) -> str:
    return next((view.state for view in service.requests() if view.request_id == arguments.get("request_id")), "absent")


_STATES: Mapping[str, Callable[[FleetService, Mapping[str, object]], Awaitable[str]]] = {
    "deploy": _deployment,
    "undeploy": _deployment,
    "accept": _board,
    "reject": _board,
    "decommission": _device,
    "expel": _device,
    "revoke_token": _token,
    "revoke_key": _key,
    "cancel": _request,
    "drain": _device,
    "undrain": _device,
}


def _shown(value: object) -> object:
    if isinstance(value, _SHOWN):
        return {name: one for name, one in dataclasses.asdict(value).items() if one not in (None, ())}
    return value if isinstance(value, str | int | float) else type(value).__name__


def _when(seconds: float | None) -> str:
    return "revoked" if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
