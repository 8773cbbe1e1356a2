"""The choice of devices and cut for one number of stages, by objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import assert_never

import numpy as np

from fleet.planning.costs import (
    REFERENCE_POSITIONS,
    PipelineShape,
    PlannerDevice,
    activation_bytes,
    head_runs,
    hops_ns,
    idle_watts,
    kv_tokens,
    launch_ns,
    layer_share,
    part_share,
    run_nj,
    run_ns,
    shape_for,
)
from fleet.planning.cut import FORBIDDEN, Cut, Option, Table, cheapest, fastest_slowest_stage_ns
from fleet.planning.noise import evened
from fleet.planning.plan import PlanRequest
from fleet.planning.storage import StorageTables
from protos.manifest import Manifest
from protos.physics.timing import TimingModel
from quantize.artifact.costs import stage_cost
from quantize.parts import EMBEDDING, HEAD, POSITIONS, stage_parts

# Beyond this many devices only the roomiest and the fastest are looked at, which keeps a fleet of thousands below a second.
MOST_DEVICES = 48
# Groups of devices tried one by one for the lowest energy; beyond, a descent from the fastest plan.
MOST_GROUPS = 300
DESCENT_STEPS = 8


@dataclass(frozen=True)
class Layout:
    """Stages in ring order: (device, first layer, stop layer)."""

    shape: PipelineShape
    positions: int  # of the sequence that predictions are for
    stages: tuple[tuple[PlannerDevice, int, int], ...]


@dataclass(frozen=True)
class _Shares:
    """What one timing model says of the pieces of a decode step, as integers that add up: nanoseconds, and nanojoules above idling."""

    layers_ns: Table  # [L+1]: of layers [0, stop)
    layers_nj: Table
    ends_ns: int  # of embedding, positions and output head
    ends_nj: int
    positions_ns: int
    launch_ns: int


class Search:
    """Finds layouts of one model on these devices, which must be in order of their ids."""

    def __init__(self, manifest: Manifest, devices: Sequence[PlannerDevice], request: PlanRequest, context: int) -> None:
        self._manifest = manifest
        self._request = request
        self._context = context
        self._positions = min(context, REFERENCE_POSITIONS)
        self._layers = manifest.config.layers
        self._layer_shares = [layer_share(manifest, layer, self._positions, request.kv_dtype) for layer in range(self._layers)]
        positions = [part.name for part in manifest.parts if part.name == POSITIONS]  # learned ones are the embedding's
        self._end_shares = [part_share(manifest, part, self._positions) for part in (EMBEDDING, *positions, HEAD)]
        self._positions_shares = [part_share(manifest, part, self._positions) for part in positions]
        self._asked: dict[TimingModel, _Shares] = {}
        self._storage = StorageTables(manifest)
        self._devices = [device for device in devices if self._takes_some(device)]
        self._weights_head = self._weight_table(stage_parts(manifest, 0, 0, head=True))
        self._weights_body = self._weight_table(())

    def shape(self, stages: int) -> PipelineShape:
        return shape_for(self._manifest, stages=stages, context=self._context, slots=self._request.slots, kv_dtype=self._request.kv_dtype)

    def layout(self, stages: int) -> Layout | None:
        """The best one with exactly this many stages, or None when nothing fits."""
        shape = self.shape(stages)
        head_need, body_need = self._need_tables(shape)
        if not self._may_fit(stages, int(head_need[self._layers])):
            return None
        devices = self._shortlist(stages)
        options = [self._option(device, stages, head_need, body_need) for device in devices]
        cut = self._cut(devices, options, stages)
        if cut is None:
            return None
        if self._request.objective == "latency":
            # The fastest are chosen by what they measured; but noise must not decide how much each of them gets.
            chosen = [devices[index] for index in sorted(index for index, _, _ in cut.stages)]
            even = cheapest([self._option(device, stages, head_need, body_need) for device in evened(chosen)], stages)
            devices, cut = chosen, even or cut
        return Layout(shape, self._positions, tuple((devices[index], first, stop) for index, first, stop in cut.stages))

    def _cut(self, devices: Sequence[PlannerDevice], options: Sequence[Option], stages: int) -> Cut | None:
        match self._request.objective:
            case "latency":
                return cheapest(options, stages)
            case "throughput":
                slowest = fastest_slowest_stage_ns(options, stages)
                return None if slowest is None else cheapest(options, stages, limit_ns=slowest)
            case "energy":
                return self._least_energy(devices, options, stages)
            case never:
                assert_never(never)

    def _least_energy(self, devices: Sequence[PlannerDevice], options: Sequence[Option], stages: int) -> Cut | None:
        """Every used device idles for the whole token, so joules are (sum of idle watts) x (sum of times) + dynamic: no sum over stages.

        For one group of devices the first factor is fixed, so few groups are tried each: exact. Where there are many groups, a descent:
        each step takes the watts and the time of the plan before as constants. A good plan, not always the best.
        """
        kinds: dict[tuple[object, ...], list[int]] = {}
        for index, device in enumerate(devices):
            kinds.setdefault(_kind(device), []).append(index)
        if math.comb(len(kinds) + stages - 1, stages) <= MOST_GROUPS:
            found = []
            for group in combinations_with_replacement(range(len(kinds)), stages):
                members = sorted(index for kind, indexes in enumerate(kinds.values()) for index in indexes[: group.count(kind)])
                if len(members) == stages:
                    found.append(self._least_energy_of(members, devices, options, stages))
            return min(filter(None, found), key=lambda cut: (self._joules(cut, devices, options), cut.stages), default=None)
        best = cut = cheapest(options, stages)
        for _ in range(DESCENT_STEPS):
            if cut is None or best is None:
                return None
            watts = sum(idle_watts(devices[index]) for index, _, _ in cut.stages)
            token_ns = self._token_ns(cut, options)
            cut = cheapest([self._priced(option, device, watts, token_ns) for option, device in zip(options, devices, strict=True)], stages)
            if cut is None or self._joules(cut, devices, options) >= self._joules(best, devices, options):
                break
            best = cut
        return best

    def _least_energy_of(
        self, members: Sequence[int], devices: Sequence[PlannerDevice], options: Sequence[Option], stages: int
    ) -> Cut | None:
        """When exactly these devices are used."""
        watts = sum(idle_watts(devices[index]) for index in members)
        cut = cheapest([self._priced(options[index], devices[index], watts, 0) for index in members], stages)
        return cut and Cut(tuple((members[index], first, stop) for index, first, stop in cut.stages), cut.score)

    def _priced(self, option: Option, device: PlannerDevice, watts: float, token_ns: float) -> Option:
        """The same option, its costs nanojoules: its time at `watts`, its own idling for `token_ns`, its dynamic energy."""
        shares = self._shares(device)
        dynamic = shares.layers_nj
        idling = round(idle_watts(device) * token_ns)
        ends = idling + shares.ends_nj

        def price(ns: Table, rest: Table) -> Table:
            at_watts = np.rint(np.where(ns >= FORBIDDEN, 0, ns) * watts).astype(np.int64)
            return np.where(ns >= FORBIDDEN, FORBIDDEN, at_watts + rest)

        return Option(
            option.head_ns,
            option.body_ns,
            price(option.head_ns, dynamic + ends),
            price(option.body_ns, dynamic[None, :] - dynamic[:, None] + idling),
        )

    def _joules(self, cut: Cut, devices: Sequence[PlannerDevice], options: Sequence[Option]) -> float:
        watts = sum(idle_watts(devices[index]) for index, _, _ in cut.stages)
        nanojoules = watts * self._token_ns(cut, options)
        for place, (index, first, stop) in enumerate(cut.stages):
            option = self._priced(options[index], devices[index], 0.0, 0)
            nanojoules += float(option.head_cost[stop] if place == 0 else option.body_cost[first, stop])
        return nanojoules / 1e9

    def _token_ns(self, cut: Cut, options: Sequence[Option]) -> int:
        ns = hops_ns(self._manifest, len(cut.stages), self._request.wire_dtype)
        for place, (index, first, stop) in enumerate(cut.stages):
            ns += int(options[index].head_ns[stop] if place == 0 else options[index].body_ns[first, stop])
        return ns

    def _option(self, device: PlannerDevice, stages: int, head_need: Table, body_need: Table) -> Option:
        shares = self._shares(device)
        time, launch = shares.layers_ns, shares.launch_ns
        head = np.where(head_need > device.memory_bytes, FORBIDDEN, time + shares.ends_ns + head_runs(stages) * launch)
        body = np.where(body_need > device.memory_bytes, FORBIDDEN, time[None, :] - time[:, None] + shares.positions_ns + launch)
        if device.storage:
            head, body = (
                np.where(refused, FORBIDDEN, table)
                for refused, table in zip(self._storage.forbidden(device.storage), (head, body), strict=True)
            )
        return Option(head, body, head, body)

    def _takes_some(self, device: PlannerDevice) -> bool:
        if device.storage is None:
            return True
        head, body = self._storage.forbidden(device.storage)
        ahead = np.arange(self._layers + 1)
        return not head[1:].all() or not body[ahead[:, None] < ahead[None, :]].all()

    def _shares(self, device: PlannerDevice) -> _Shares:
        """Asked once of each timing model."""
        if (known := self._asked.get(device.timing)) is None:
            known = self._asked[device.timing] = _Shares(
                layers_ns=np.cumsum([0, *(run_ns(device, share) for share in self._layer_shares)]),
                layers_nj=np.cumsum([0, *(run_nj(device, share) for share in self._layer_shares)]),
                ends_ns=sum(run_ns(device, share) for share in self._end_shares),
                ends_nj=sum(run_nj(device, share) for share in self._end_shares),
                positions_ns=sum(run_ns(device, share) for share in self._positions_shares),
                launch_ns=launch_ns(device),
            )
        return known

    def _need_tables(self, shape: PipelineShape) -> tuple[Table, Table]:
        """Memory per run of layers, bytes; FORBIDDEN where the run is empty."""
        kv = np.cumsum([0, *(share.cost.kv_bytes_per_token for share in self._layer_shares)]) * kv_tokens(shape)
        body = self._weights_body + kv[None, :] - kv[:, None] + activation_bytes(self._manifest, shape, head=False)
        head = self._weights_head[0] + kv + activation_bytes(self._manifest, shape, head=True)
        empty = np.arange(self._layers + 1)
        return np.where(empty == 0, FORBIDDEN, head), np.where(empty[:, None] >= empty[None, :], FORBIDDEN, body)

    def _weight_table(self, always: tuple[str, ...]) -> Table:
        """Resident bytes of `always`, the positions where the model has them, and layers [first, stop)."""
        always = (*always, *(part.name for part in self._manifest.parts if part.name == POSITIONS))
        layers = np.cumsum([0, *(share.cost.weight_bytes for share in self._layer_shares)])
        table: Table = stage_cost(self._manifest, always).weight_bytes + np.maximum(0, layers[None, :] - layers[:, None])
        return table

    def _may_fit(self, stages: int, whole_bytes: int) -> bool:
        """A quick no: even the roomiest devices together are too small."""
        roomiest = sorted((device.memory_bytes for device in self._devices), reverse=True)[:stages]
        return len(roomiest) == stages and sum(roomiest) >= whole_bytes

    def _shortlist(self, stages: int) -> list[PlannerDevice]:
        """Devices worth a look, in order of their ids: of each kind no more than there are stages, and of too many kinds the roomiest
        `stages` (so what can fit does) and then the fastest."""
        kinds: dict[tuple[object, ...], int] = {}
        kept = []
        for device in self._devices:
            kinds[_kind(device)] = kinds.get(_kind(device), 0) + 1
            if kinds[_kind(device)] <= stages:
                kept.append(device)
        if len(kept) <= MOST_DEVICES:
            return kept
        roomiest = sorted(kept, key=lambda device: -device.memory_bytes)[:stages]
        by_merit = sorted(kept, key=self._merit)
        chosen = {device.device_id for device in roomiest}
        for device in by_merit:
            if len(chosen) >= max(MOST_DEVICES, stages):
                break
            chosen.add(device.device_id)
        return [device for device in kept if device.device_id in chosen]

    def _merit(self, device: PlannerDevice) -> float:
        """Of a device on its own, by its first layer: lower is better."""
        layer = self._layer_shares[0]
        ns = run_ns(device, layer)
        return idle_watts(device) * ns + run_nj(device, layer) if self._request.objective == "energy" else ns


def _kind(device: PlannerDevice) -> tuple[object, ...]:
    """Devices of one kind are interchangeable."""
    return (
        device.memory_bytes,
        device.figures,
        device.timing_model,
        device.core,
        device.runs_programs,
        device.storage,
    )
