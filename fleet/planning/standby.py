"""Which spare devices keep which stages loaded, so that the loss of a device is a pause of seconds: pure functions of plans and devices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from fleet.planning.costs import REFERENCE_POSITIONS, PipelineShape, PlannerDevice, activation_bytes, decode_cost, idle_watts, weights
from fleet.planning.plan import Covered, Pause, Plan, StagePlan, Standby
from protos.ids import Digest
from protos.manifest import Manifest
from protos.sizes import bytes_text

# A link that breaks for a moment, and an agent that only dials anew, are back sooner: nobody is left for that.
GRACE_SECONDS = 0.5
# Until the coordinator and the neighbours know: the connections of a process that dies end at once. Silence (a power cut) takes longer.
NOTICED_SECONDS = 0.1
# The new plan on the disk, one message to each stage, and the ring built anew (benchmarks/recovery.py).
MOVE_SECONDS = 0.3
MOVE_SECONDS_A_STAGE = 0.05
# The standby is sent the rows of the cache as they are made (device/pipeline/mirror.py); those of the last so many seconds it may lack.
LAG_SECONDS = 0.3


def with_standbys(manifest: Manifest, plans: Sequence[Plan], spares: Sequence[PlannerDevice], count: int) -> tuple[Plan, ...]:
    """The plans of one deployment with `count` standbys more, chosen among `spares`, and with the pauses that their devices' loss will be.

    Plans of another version of the model get none. A spare keeps all stages that its memory and disk take, those that nobody keeps yet
    first, and of these the largest: their loss would take longest. The spare is taken that adds most, of equals the one with the lowest id.
    """
    made = list(plans)
    by_pairs = any(one.decode == "pairs" for one in plans)
    able = (spare for spare in spares if spare.keeps_standbys and not spare.hollow and (spare.decodes_pairs or not by_pairs))
    left = sorted(able, key=lambda one: one.device_id)
    for _ in range(count):
        offers = [(spare, _covers(manifest, made, spare)) for spare in left]
        if not (offers := [(spare, covers) for spare, covers in offers if any(covers)]):
            break
        best, covers = max(offers, key=lambda offer: _worth(made, offer[1]))
        left.remove(best)
        standbys = [Standby(best.device_id, best.name, stages) if stages else None for stages in covers]
        made = [replace(one, standbys=(*one.standbys, new)) if new else one for one, new in zip(made, standbys, strict=True)]
    return tuple(replace(one, pauses=pauses(one)) for one in made)


def pauses(plan: Plan) -> tuple[Pause, ...]:
    """For the loss of each stage's device that a standby covers, by the first that does: it has the rows of the answers' caches but for the
    last, whose tokens are decoded once more."""
    found = []
    for number in range(len(plan.stages)):
        covered = next((one for standby in plan.standbys for one in standby.covers if one.stage == number), None)
        if covered is not None:
            token_seconds = _token_seconds(plan, covered)
            noticed, move = NOTICED_SECONDS + GRACE_SECONDS, MOVE_SECONDS + MOVE_SECONDS_A_STAGE * len(plan.stages)
            replayed = LAG_SECONDS * max(token_seconds, 0.0) * plan.decode_tokens_per_second
            found.append(Pause(number, noticed + move + replayed, noticed, move, replayed))
    return tuple(found)


def without(plan: Plan, devices: Collection[str]) -> Plan:
    """These are no standbys of it any more."""
    kept = replace(plan, standbys=tuple(standby for standby in plan.standbys if standby.device_id not in devices))
    return replace(kept, pauses=pauses(kept))


def moved(plan: Plan, stage: int, device: str) -> Plan:
    """The stage is on its standby `device`, which is no standby any more; the others stay where they are."""
    covered = next(one for standby in plan.standbys if standby.device_id == device for one in standby.covers if one.stage == stage)
    token_seconds = _token_seconds(plan, covered)
    stages = tuple(covered.plan if number == stage else one for number, one in enumerate(plan.stages))
    joules = [one.decode_joules for one in stages]
    return without(
        replace(
            plan,
            stages=stages,
            decode_tokens_per_second=1 / token_seconds if token_seconds > 0 else plan.decode_tokens_per_second,
            joules_per_token=None if None in joules else sum(one for one in joules if one is not None),
        ),
        {device},
    )


def lacking_line(manifest: Manifest, plans: Sequence[Plan], asked: int, spares: Sequence[PlannerDevice]) -> str:
    """Why there are fewer standbys than were asked for; "" when there are not. `spares`: devices that no plan uses."""
    used = {standby.device_id for plan in plans for standby in plan.standbys}
    if len(used) >= asked:
        return ""
    left = [spare for spare in spares if spare.device_id not in used]
    return f"{len(used)} of the {asked} standbys that were asked for: {_why_none(manifest, plans, left)}"


def lines(plan: Plan) -> list[str]:
    """Who covers what, and the pauses: one line each."""
    found = [_covers_line(plan, standby) for standby in plan.standbys]
    for pause in plan.pauses:
        lost = plan.stages[pause.stage].device_name
        found.append(
            f"if {lost} is lost, answers pause for {pause.seconds:.1f} s (predicted): {pause.noticed_seconds:.1f} s until it is left, "
            f"{pause.moved_seconds:.1f} s to move, {pause.replayed_seconds:.1f} s to decode again what the standby had not been sent"
        )
    return found


def _token_seconds(plan: Plan, covered: Covered) -> float:
    """Of a token, with this stage on the standby."""
    return 1 / plan.decode_tokens_per_second - plan.stages[covered.stage].decode_seconds + covered.plan.decode_seconds


def _covers(manifest: Manifest, plans: Sequence[Plan], spare: PlannerDevice) -> list[tuple[Covered, ...]]:
    """What it would keep of each plan."""
    kept = {(number, one.stage) for number, plan in enumerate(plans) for standby in plan.standbys for one in standby.covers}
    same = [number for number, plan in enumerate(plans) if plan.manifest_digest == manifest.digest]
    wanted = [(number, stage) for number in same for stage in range(len(plans[number].stages))]
    wanted.sort(key=lambda one: (one in kept, -_size(plans[one[0]].stages[one[1]]), one))
    room, disk = spare.memory_bytes - max(_buffer_bytes(manifest, plan) for plan in plans), spare.storage
    found: list[list[Covered]] = [[] for _ in plans]
    held: dict[Digest, int] = {}
    for number, stage in wanted:
        planned = plans[number].stages[stage]
        sizes = weights(manifest, planned.parts)
        lacking = sum(size for digest, size in {**held, **sizes}.items() if disk is None or digest not in disk.present)
        if _size(planned) > room or (disk is not None and lacking > disk.free_bytes):
            continue
        room -= _size(planned)
        held |= sizes
        found[number].append(Covered(stage, _as_on(manifest, plans[number], stage, spare)))
    return [tuple(sorted(each, key=lambda one: one.stage)) for each in found]


def _worth(plans: Sequence[Plan], covers: Sequence[tuple[Covered, ...]]) -> tuple[int, int, float]:
    """Bytes of stages that nobody keeps yet, of all, and how quick it is with them."""
    new = total = 0
    seconds = 0.0
    for plan, stages in zip(plans, covers, strict=True):
        kept = {one.stage for standby in plan.standbys for one in standby.covers}
        for one in stages:
            total += _size(one.plan)
            new += _size(one.plan) if one.stage not in kept else 0
            seconds += one.plan.decode_seconds
    return new, total, -seconds


def _size(stage: StagePlan) -> int:
    return stage.weight_bytes + stage.kv_bytes


def _buffer_bytes(manifest: Manifest, plan: Plan) -> int:
    """What a stage of the plan may take besides its weights and cache."""
    shape = PipelineShape(plan.context, plan.groups, plan.slots_per_group, plan.prefill_chunk, plan.kv_dtype)
    return activation_bytes(manifest, shape, head=True)


def _as_on(manifest: Manifest, plan: Plan, number: int, spare: PlannerDevice) -> StagePlan:
    """The stage, as this device would run it."""
    stage, positions = plan.stages[number], min(plan.context, REFERENCE_POSITIONS)
    ns, nj = decode_cost(manifest, spare, stage.parts, number, len(plan.stages), positions, plan.kv_dtype, plan.wire_dtype, plan.decode)
    joules = nj / 1e9 + idle_watts(spare) / plan.decode_tokens_per_second
    return replace(
        stage,
        device_id=spare.device_id,
        device_name=spare.name,
        profile=spare.profile,
        simulated=spare.simulated,
        memory_bytes=spare.memory_bytes,
        push_bytes=sum(weights(manifest, stage.parts).values()),
        decode_seconds=ns / 1e9,
        decode_joules=joules if spare.figures.has_energy else None,
        hollow=spare.hollow,
    )


def _covers_line(plan: Plan, standby: Standby) -> str:
    of = {one.stage for one in standby.covers}
    if len(of) == len(plan.stages):
        return f"standby: {standby.device_name} keeps all stages loaded"
    devices = ", ".join(f"{number} (of {stage.device_name})" for number, stage in enumerate(plan.stages) if number in of)
    left = ", ".join(str(number) for number in range(len(plan.stages)) if number not in of)
    return f"standby: {standby.device_name} keeps stages {devices} loaded; {left} do not fit beside them"


def _why_none(manifest: Manifest, plans: Sequence[Plan], spares: Sequence[PlannerDevice]) -> str:
    if not spares:
        return "no device is left that may be used"
    if unable := [spare.name for spare in spares if not spare.keeps_standbys]:
        return f"{', '.join(unable)} cannot keep a stage beside others: its agent is older, or computes nothing"
    smallest = min(_size(stage) + _buffer_bytes(manifest, plan) for plan in plans for stage in plan.stages)
    rooms = ", ".join(f"{spare.name} has {bytes_text(spare.memory_bytes)} free" for spare in spares)
    return f"the smallest stage needs {bytes_text(smallest)}; {rooms}" + (
        ", and its disk may be full" if any(s.storage for s in spares) else ""
    )
