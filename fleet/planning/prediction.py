"""What a plan would give, without running it: speed, energy, heat and money. Pure, by the formulas that simulated devices count by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias, get_args

from fleet.planning.costs import HOP_SECONDS, LINK_BYTES_PER_SECOND, hop_bytes, idle_watts, stage_run
from fleet.planning.plan import Objective, Plan, PlanRequest, StagePlan
from fleet.planning.planner import PlannerDevice, plan
from protos.errors import NoSpace
from protos.manifest import Manifest
from protos.physics.chunks import ChunkSizes
from protos.physics.thermal import Sustained, Thermal, sustained
from protos.physics.timing import Decode, Estimate, Prefill, StageRun

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
YEAR_SECONDS = 365.25 * 86400
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Traffic:
    """So many streams at once, each asked with `prompt` tokens and answered with `answer`."""

    prompt: int = 128
    answer: int = 128
    streams: int = 1

    @property
    def positions(self) -> int:
        """Tokens in the cache in the middle of the answer: decode's mean cost."""
        return self.prompt + self.answer // 2


@dataclass(frozen=True)
class LinkModel:
    """One direction between two devices: the delay beyond HOP_SECONDS, which every hop takes, and the rate."""

    delay_seconds: float = 0.0
    bytes_per_second: float = LINK_BYTES_PER_SECOND


LinkModels: TypeAlias = Callable[[str, str], LinkModel]  # from and to, by name


def wired(_source: str, _target: str) -> LinkModel:
    """Where nothing is said of links."""
    return LinkModel()


@dataclass(frozen=True)
class Prices:
    """In one currency. `hardware` by profile; what is not in it costs nothing. Written off over `years` of work without a pause."""

    per_kwh: float | None = None
    hardware: Mapping[str, float] | None = None
    years: float = 5.0


@dataclass(frozen=True)
class StageOutlook:
    """One device while it decodes without an end. `busy` is its share of the time; `speed` below 1: it is too hot to go faster."""

    plan: StagePlan
    busy: float
    watts: float
    celsius: float | None
    speed: float
    spent: Estimate  # of one step


@dataclass(frozen=True)
class Outlook:
    """`tokens_per_second` of all streams together; None where a device tells no energy, or no price was given."""

    plan: Plan
    stages: tuple[StageOutlook, ...]
    tokens_per_second: float
    token_seconds: float  # between two tokens of one stream
    first_token_seconds: float
    hops_seconds: float  # of `token_seconds`, on the links of the ring
    joules_per_token: float | None
    watts: float | None
    cost_per_million_tokens: float | None


def outlooks(
    manifest: Manifest,
    devices: Sequence[PlannerDevice],
    request: PlanRequest,
    traffic: Traffic,
    prices: Prices,
    links: LinkModels = wired,
) -> list[Outlook]:
    """One for each different placement that the planner makes of these devices: each kind alone, and every number of stages by every
    objective; the quickest first. Raises NoSpace when it fits nowhere.

    The planner itself knows nothing of `links`.
    """
    found = {tuple((s.profile, s.first_layer, s.stop_layer) for s in made.stages): made for made in _plans(manifest, devices, request)}
    if not found:
        plan(manifest, devices, replace(request, stages=None))  # says why
        raise NoSpace("no plan fits these devices", advice="add devices")
    by_id = {device.device_id: device for device in devices}
    made = [outlook(manifest, one, by_id, traffic, prices, links) for one in found.values()]
    return sorted(made, key=lambda one: (one.token_seconds, len(one.stages)))


def outlook(
    manifest: Manifest, made: Plan, devices: Mapping[str, PlannerDevice], traffic: Traffic, prices: Prices, links: LinkModels = wired
) -> Outlook:
    """Of one plan of this model on these devices, by id; each is asked through its timing model. Raises InvalidInput for another model's
    plan."""
    users = [devices[stage.device_id] for stage in made.stages]
    bare = [stage_run(manifest, stage.parts, made.kv_dtype) for stage in made.stages]
    names = [stage.device_name for stage in made.stages]
    hops = [links(source, target) for source, target in pairwise([*names, names[0]])] if len(names) > 1 else []
    ring = _Ring(manifest, made, users, bare, traffic, hops)
    # Throttling makes a step longer, and a longer step cools: the speeds are those of the load as it would be unthrottled.
    cool = ring.step([1.0] * len(users))
    heats = [_heat(device, cool.joules[place] / cool.seconds) for place, device in enumerate(users)]
    step = ring.step([heat.speed for heat in heats])
    tokens = traffic.streams / step.seconds
    stages = tuple(
        StageOutlook(
            plan=stage,
            busy=step.busy[place] / step.seconds,
            watts=idle_watts(device) + step.joules[place] / step.seconds,
            celsius=heats[place].celsius if device.thermal else None,
            speed=heats[place].speed,
            spent=ring.spent(place),
        )
        for place, (stage, device) in enumerate(zip(made.stages, users, strict=True))
    )
    watts = sum(stage.watts for stage in stages) if all(device.figures.has_energy for device in users) else None
    return Outlook(
        plan=made,
        stages=stages,
        tokens_per_second=tokens,
        token_seconds=step.seconds,
        first_token_seconds=ring.first_token_seconds([heat.speed for heat in heats]),
        hops_seconds=step.hops_seconds,
        joules_per_token=None if watts is None else watts / tokens,
        watts=watts,
        cost_per_million_tokens=_cost(made, watts, tokens, prices),
    )


@dataclass(frozen=True)
class _Step:
    """One token of every stream: its time, that of its way over the links, and how long each stage is busy with it and what it draws
    above idling."""

    seconds: float
    hops_seconds: float
    busy: tuple[float, ...]
    joules: tuple[float, ...]


@dataclass(frozen=True)
class _Ring:
    manifest: Manifest
    plan: Plan
    devices: Sequence[PlannerDevice]
    bare: Sequence[StageRun]  # of each stage, with nothing to do yet
    traffic: Traffic
    hops: Sequence[LinkModel]  # from each stage to the next, from the last to the head; a single stage has none

    def step(self, speeds: Sequence[float]) -> _Step:
        """Streams spread over the slot groups; a group goes round the ring while the others are at other stages."""
        groups = min(self.plan.groups, self.traffic.streams)
        sizes = [self.traffic.streams // groups + (index < self.traffic.streams % groups) for index in range(groups)]
        busy, joules = [0.0] * len(speeds), [0.0] * len(speeds)
        longest = hops = 0.0
        for rows in sizes:
            around = sum(self._hops_seconds([rows] * len(self.hops)))
            hops = max(hops, around)
            for place, speed in enumerate(speeds):
                estimates = [self.devices[place].timing.estimate(run) for run in self._decode_runs(place, rows)]
                seconds = sum(estimate.seconds for estimate in estimates) / speed
                busy[place] += seconds
                joules[place] += sum(estimate.joules for estimate in estimates)
                around += seconds
            longest = max(longest, around)
        wires = [self.traffic.streams * self._row_bytes / hop.bytes_per_second for hop in self.hops]
        return _Step(max(longest, *busy, *wires), hops, tuple(busy), tuple(joules))

    def spent(self, place: int) -> Estimate:
        """Of one step of one group, at full speed."""
        rows = -(-self.traffic.streams // min(self.plan.groups, self.traffic.streams))
        first, *rest = self._decode_runs(place, rows)
        whole = replace(first, head_rows=rest[0].head_rows, launches=2) if rest else first
        return self.devices[place].timing.estimate(whole)

    def first_token_seconds(self, speeds: Sequence[float]) -> float:
        """Of a prompt that is alone: its chunks one after the other round the ring, then the output head."""
        total, start, chunks = 0.0, 0, ChunkSizes(self.plan.prefill_chunk)
        while start < self.traffic.prompt:
            rows = min(chunks.rows(), self.traffic.prompt - start)
            last = start + rows == self.traffic.prompt
            at_head = 0.0
            for place, device in enumerate(self.devices):
                seconds = [device.timing.estimate(run).seconds / speeds[place] for run in self._chunk_runs(place, start, rows, last)]
                at_head = seconds[0] if place == 0 else at_head
                total += sum(seconds)
            # To the head goes only the row that a token is sampled from.
            total += sum(self._hops_seconds([rows] * (len(self.hops) - 1) + [int(last)]))
            start += rows
            chunks = chunks.measured(rows, at_head)
        return total

    def _chunk_runs(self, place: int, start: int, rows: int, last: bool) -> list[StageRun]:
        bare, body = self.bare[place], Prefill(start, rows)
        if len(self.devices) == 1:
            return [replace(bare, body=body, head_rows=int(last))]
        sent = rows if place < len(self.devices) - 1 else int(last)
        layers = replace(bare, body=body, link_bytes=sent * self._row_bytes)
        # The only stage runs the output head in the same turn; a ring's head in one of its own, when the rows are back.
        return [layers, replace(bare, head_rows=1)] if last and place == 0 else [layers]

    def _decode_runs(self, place: int, rows: int) -> list[StageRun]:
        bare, body = self.bare[place], Decode((self.traffic.positions,) * rows)
        if len(self.devices) == 1:
            return [replace(bare, body=body, head_rows=rows)]
        layers = replace(bare, body=body, link_bytes=rows * self._row_bytes)
        return [layers, replace(bare, head_rows=rows)] if place == 0 else [layers]

    @property
    def _row_bytes(self) -> int:
        return hop_bytes(self.manifest, self.plan.wire_dtype)

    def _hops_seconds(self, rows: Sequence[int]) -> list[float]:
        """Of so many rows over each hop."""
        pairs = zip(self.hops, rows, strict=False)
        return [HOP_SECONDS + hop.delay_seconds + count * self._row_bytes / hop.bytes_per_second for hop, count in pairs]


def _plans(manifest: Manifest, devices: Sequence[PlannerDevice], request: PlanRequest) -> Iterator[Plan]:
    kinds = {device.profile: device for device in reversed(devices)}
    choices = [replace(request, stages=1, devices=(device.name,)) for device in kinds.values()]
    choices += [
        replace(request, stages=stages, objective=objective)
        for stages in range(2, min(len(devices), manifest.config.layers) + 1)
        for objective in OBJECTIVES
    ]
    for choice in choices:
        try:
            yield plan(manifest, devices, choice)
        except NoSpace:
            continue


def _heat(device: PlannerDevice, dynamic_watts: float) -> Sustained:
    return sustained(device.thermal or Thermal(), idle_watts(device), dynamic_watts)


def _cost(made: Plan, watts: float | None, tokens_per_second: float, prices: Prices) -> float | None:
    if prices.per_kwh is None and prices.hardware is None:
        return None
    if prices.per_kwh is not None and watts is None:
        return None
    energy = (prices.per_kwh or 0.0) * (watts or 0.0) / JOULES_PER_KWH
    boards = sum((prices.hardware or {}).get(stage.profile, 0.0) for stage in made.stages) / (prices.years * YEAR_SECONDS)
    return 1e6 * (energy + boards) / tokens_per_second
