"""The form in which a deployment lies in the store, whatever version of this program put it there.

Keys here are those of the stored text, not names of fields: a field that is renamed leaves them alone. A key that may be missing needs no
new form; one that is needed, or means something else, does. Forms of older versions are read for ever.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NoReturn, TypeAlias, cast, get_args

from fleet.deploying.desired import DEFAULT_POLICY, Desired, PipelineSpec, Policy, new_desired
from fleet.planning.plan import Covered, Objective, Pause, Plan, PlanRequest, StagePlan, Standby
from protos.decoding import DecodeMode
from protos.dtypes import KvDtype, WireDtype
from protos.ids import PipelineId

FORM = 2  # 1: {"plan": ...}, with no number
_SUM = "sha256"
_WHY_LENGTH = 120
_TOO_LARGE = 1 << 63  # for the messages it will be sent in

_Json: TypeAlias = "str | int | float | bool | list[_Json] | dict[str, _Json] | None"


@dataclass(frozen=True)
class Unreadable:
    """A deployment whose stored form, `text`, this version cannot read: known, shown, and left as it is."""

    name: str
    generation: int
    why: str  # one line
    text: str


def write(desired: Desired) -> str:
    """JSON text, in the newest form."""
    pipelines: list[_Json] = [
        {"pipeline_id": one.pipeline_id, "epoch": one.epoch, "plan": _plan_out(one.plan)} for one in desired.pipelines
    ]
    request = None if desired.request is None else _request_out(desired.request)
    policy: _Json = {
        "replan_after_seconds": desired.policy.replan_after_seconds,
        "standby": desired.policy.standby,
        "exact_within_seconds": desired.policy.exact_within_seconds,
    }
    whole: dict[str, _Json] = {"form": FORM, "pipelines": pipelines, "request": request, "policy": policy}
    return json.dumps({**whole, _SUM: _sum_of(whole)}, sort_keys=True)


def read(name: str, generation: int, text: str) -> Desired | Unreadable:
    """What `write` made of it, in this version or an older one. Keys that a form does not know are passed over. Never raises."""
    try:
        plain = json.loads(text)
        whole = _Reader("the deployment", plain)
        form = whole.whole("form", 1)
        if form not in (1, FORM):
            return Unreadable(name, generation, f"it is stored in form {form}, and this version reads forms 1 to {FORM}", text)
        if whole.has(_SUM) and whole.text(_SUM) != _sum_of({key: value for key, value in plain.items() if key != _SUM}):
            return Unreadable(name, generation, "it has changed on the disk: its sum is wrong", text)
        if form == 1:
            return new_desired(name, generation, (_plan_in(whole.inner("plan")),), None)
        pipelines = tuple(_pipeline_in(one) for one in whole.inners("pipelines"))
        request = None if whole.lacks("request") else _request_in(whole.inner("request"))
        policy = DEFAULT_POLICY if whole.lacks("policy") else _policy_in(whole.inner("policy"))
        return Desired(name, generation, pipelines, request, policy)
    except _WrongError as wrong:
        return Unreadable(name, generation, str(wrong)[:_WHY_LENGTH], text)
    except (ValueError, RecursionError):
        return Unreadable(name, generation, "it is not JSON", text)


def _sum_of(whole: Mapping[str, object]) -> str:
    """A disk that changes a bit must not change a plan. Older versions wrote none."""
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _plan_out(plan: Plan) -> dict[str, _Json]:
    return {
        "model": plan.model,
        "manifest_digest": plan.manifest_digest,
        "objective": plan.objective,
        "context": plan.context,
        "groups": plan.groups,
        "slots_per_group": plan.slots_per_group,
        "prefill_chunk": plan.prefill_chunk,
        "stages": [_stage_out(stage) for stage in plan.stages],
        "decode_tokens_per_second": plan.decode_tokens_per_second,
        "joules_per_token": plan.joules_per_token,
        "hop_bytes": plan.hop_bytes,
        "why": list(plan.why),
        "kv_dtype": plan.kv_dtype,
        "wire_dtype": plan.wire_dtype,
        "decode": plan.decode,
        "standbys": [_standby_out(one) for one in plan.standbys],
        "pauses": [_pause_out(one) for one in plan.pauses],
    }


def _standby_out(one: Standby) -> dict[str, _Json]:
    covers: list[_Json] = [{"stage": covered.stage, "plan": _stage_out(covered.plan)} for covered in one.covers]
    return {"device_id": one.device_id, "device_name": one.device_name, "covers": covers}


def _pause_out(one: Pause) -> dict[str, _Json]:
    return {
        "stage": one.stage,
        "seconds": one.seconds,
        "noticed_seconds": one.noticed_seconds,
        "moved_seconds": one.moved_seconds,
        "replayed_seconds": one.replayed_seconds,
    }


def _stage_out(stage: StagePlan) -> dict[str, _Json]:
    return {
        "device_id": stage.device_id,
        "device_name": stage.device_name,
        "profile": stage.profile,
        "simulated": stage.simulated,
        "first_layer": stage.first_layer,
        "stop_layer": stage.stop_layer,
        "parts": list(stage.parts),
        "weight_bytes": stage.weight_bytes,
        "kv_bytes": stage.kv_bytes,
        "memory_bytes": stage.memory_bytes,
        "push_bytes": stage.push_bytes,
        "decode_seconds": stage.decode_seconds,
        "decode_joules": stage.decode_joules,
        "hollow": stage.hollow,
    }


def _request_out(request: PlanRequest) -> dict[str, _Json]:
    return {
        "model": request.model,
        "objective": request.objective,
        "stages": request.stages,
        "context": request.context,
        "slots": request.slots,
        "devices": list(request.devices),
        "kv_dtype": request.kv_dtype,
        "wire_dtype": request.wire_dtype,
        "decode": request.decode,
    }


def _pipeline_in(one: _Reader) -> PipelineSpec:
    return PipelineSpec(PipelineId(one.text("pipeline_id")), one.whole("epoch"), _plan_in(one.inner("plan")))


def _plan_in(plan: _Reader) -> Plan:
    return Plan(
        model=plan.text("model"),
        manifest_digest=plan.text("manifest_digest"),
        objective=_objective(plan),
        context=plan.whole("context"),
        groups=plan.whole("groups"),
        slots_per_group=plan.whole("slots_per_group"),
        prefill_chunk=plan.whole("prefill_chunk"),
        stages=tuple(_stage_in(stage) for stage in plan.inners("stages")),
        decode_tokens_per_second=plan.number("decode_tokens_per_second"),
        joules_per_token=None if plan.lacks("joules_per_token") else plan.number("joules_per_token"),
        hop_bytes=plan.whole("hop_bytes"),
        why=plan.texts("why"),
        kv_dtype=_kv_dtype(plan),
        wire_dtype=_wire_dtype(plan),
        decode=_decode(plan),
        standbys=tuple(_standby_in(one) for one in plan.inners("standbys", least=0)),
        pauses=tuple(_pause_in(one) for one in plan.inners("pauses", least=0)),
    )


def _standby_in(one: _Reader) -> Standby:
    covers = tuple(Covered(covered.whole("stage"), _stage_in(covered.inner("plan"))) for covered in one.inners("covers"))
    return Standby(one.text("device_id"), one.text("device_name"), covers)


def _pause_in(one: _Reader) -> Pause:
    return Pause(
        stage=one.whole("stage"),
        seconds=one.number("seconds"),
        noticed_seconds=one.number("noticed_seconds"),
        moved_seconds=one.number("moved_seconds"),
        replayed_seconds=one.number("replayed_seconds"),
    )


def _stage_in(stage: _Reader) -> StagePlan:
    return StagePlan(
        device_id=stage.text("device_id"),
        device_name=stage.text("device_name"),
        profile=stage.text("profile"),
        simulated=stage.flag("simulated"),
        first_layer=stage.whole("first_layer"),
        stop_layer=stage.whole("stop_layer"),
        parts=stage.texts("parts"),
        weight_bytes=stage.whole("weight_bytes"),
        kv_bytes=stage.whole("kv_bytes"),
        memory_bytes=stage.whole("memory_bytes"),
        push_bytes=stage.whole("push_bytes"),
        decode_seconds=stage.number("decode_seconds"),
        decode_joules=None if stage.lacks("decode_joules") else stage.number("decode_joules"),
        hollow=stage.flag("hollow", False),
    )


def _request_in(request: _Reader) -> PlanRequest:
    return PlanRequest(
        model=request.text("model"),
        objective=_objective(request),
        stages=None if request.lacks("stages") else request.whole("stages"),
        context=None if request.lacks("context") else request.whole("context"),
        slots=request.whole("slots"),
        devices=request.texts("devices"),
        kv_dtype=_kv_dtype(request),
        wire_dtype=_wire_dtype(request),
        decode=_decode(request),
    )


def _policy_in(policy: _Reader) -> Policy:
    """Null means never; a missing key the default."""
    exact_within = None if policy.lacks("exact_within_seconds") else policy.number("exact_within_seconds")
    read = Policy(standby=policy.whole("standby", 0), exact_within_seconds=exact_within)
    if not policy.has("replan_after_seconds"):
        return read
    return replace(read, replan_after_seconds=None if policy.lacks("replan_after_seconds") else policy.number("replan_after_seconds"))


def _objective(of: _Reader) -> Objective:
    return cast(Objective, of.one_of("objective", get_args(Objective)))


def _kv_dtype(of: _Reader) -> KvDtype:
    return cast(KvDtype, of.one_of("kv_dtype", get_args(KvDtype), "float32"))


def _decode(of: _Reader) -> DecodeMode:
    return cast(DecodeMode, of.one_of("decode", get_args(DecodeMode), "rows"))


def _wire_dtype(of: _Reader) -> WireDtype:
    return cast(WireDtype, of.one_of("wire_dtype", get_args(WireDtype), "float32"))


class _WrongError(Exception):
    """What is wrong with the text, and where in it."""


class _Reader:
    """A JSON object at `place` in the text. All raises _WrongError: for a missing key without a default, for another type."""

    def __init__(self, place: str, value: object) -> None:
        if not isinstance(value, dict):
            raise _WrongError(f"{place} is no JSON object")
        self._place = place
        self._values: Mapping[str, object] = value

    def has(self, key: str) -> bool:
        """There, be it null."""
        return key in self._values

    def lacks(self, key: str) -> bool:
        """Missing, or null."""
        return self._values.get(key) is None

    def text(self, key: str, default: str | None = None) -> str:
        value = self._values.get(key, default)
        return value if isinstance(value, str) else self._refuse(key, "text")

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._values.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _TOO_LARGE:
            return value
        return self._refuse(key, "a whole number")

    def number(self, key: str) -> float:
        value = self._values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value
        return self._refuse(key, "a number")

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._values.get(key, default)
        return value if isinstance(value, bool) else self._refuse(key, "true or false")

    def one_of(self, key: str, values: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(key, default)
        return value if value in values else self._refuse(key, f"one of {', '.join(values)}")

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._values.get(key)
        texts = [one for one in value if isinstance(one, str)] if isinstance(value, list) else None
        return tuple(texts) if texts is not None and texts == value else self._refuse(key, "a list of texts")

    def inner(self, key: str) -> _Reader:
        if key not in self._values:
            raise _WrongError(f"{self._place} has no {key}")
        return _Reader(f"its {key}", self._values[key])

    def inners(self, key: str, *, least: int = 1) -> tuple[_Reader, ...]:
        """With `least` 0 the key may be missing."""
        value = self._values.get(key, None if least else [])
        if not (isinstance(value, list) and len(value) >= least):
            self._refuse(key, "a list of some" if least else "a list")
        return tuple(_Reader(f"one of its {key}", one) for one in value)

    def _refuse(self, key: str, wanted: str) -> NoReturn:
        missing = key not in self._values
        raise _WrongError(f"{self._place} has no {key}" if missing else f"{key} of {self._place} is not {wanted}")
