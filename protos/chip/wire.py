"""Cores and their programs' times as messages, and back: whoever sends them may have made anything up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, cast, get_args

from protos.chip.core import LARGEST, MECHANISMS, Core, Dataflow, Mechanism
from protos.errors import InvalidInput
from protos.physics.programs import JOULES, SPENT, ProgramTime, Room, StageTimes
from protos.v1 import chip_pb2 as pb

MOST_PROGRAMS = 4096  # of a stage: contexts to 2^40 positions, by all sizes of rows
_LONGEST_NAME = 100
# The bounds of chip profiles, by the names that a core has for the same; others are sizes that no chip has.
_MOST = {
    "arrays": LARGEST["arrays"],
    "rows": LARGEST["array_rows"],
    "columns": LARGEST["array_columns"],
    "lanes": LARGEST["lanes"],
    "scratchpad_bytes": LARGEST["scratchpad"],
    "accumulator_bytes": LARGEST["accumulators"],
}


def core_message(core: Core) -> pb.Core:
    return pb.Core(**{**_figures(core), "mechanisms": sorted(core.mechanisms)})


def core_of(message: pb.Core) -> Core:
    """Raises InvalidInput, naming the figure, for a core that is none."""
    plain = {field.name: getattr(message, field.name) for field in fields(Core)}
    name, dataflow, mechanisms = message.name, message.dataflow, list(message.mechanisms)
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise _bad("name")
    if dataflow not in get_args(Dataflow):
        raise _bad("dataflow")
    if not set(mechanisms) <= set(MECHANISMS):
        raise _bad("mechanisms")
    for key, value in plain.items():
        if isinstance(value, int | float) and not (math.isfinite(value) and 0 < value <= _MOST.get(key, 1e18)):
            raise _bad(key)
    if message.reachable > 1:
        raise _bad("reachable")
    return Core(**{**plain, "mechanisms": frozenset(cast(list[Mechanism], mechanisms))})


def times_message(times: StageTimes) -> pb.StageTimes:
    def programs(found: Iterable[ProgramTime]) -> list[pb.ProgramTime]:
        return [pb.ProgramTime(**vars(one.room), seconds=one.seconds, joules=one.joules) for one in found]

    return pb.StageTimes(layers=programs(times.layer_programs), head=programs(times.head_programs))


def times_of(message: pb.StageTimes) -> StageTimes:
    """Raises InvalidInput for times that no programs have, and where a single row has no program."""
    if len(message.layers) + len(message.head) > MOST_PROGRAMS:
        raise InvalidInput(f"a stage's times are of {len(message.layers) + len(message.head)} programs; {MOST_PROGRAMS} at most")
    heads = sorted(map(_program_time, message.head), key=lambda one: one.room.sequences)
    times = StageTimes(tuple(map(_program_time, message.layers)), tuple(heads))
    contexts = {one.room.context for one in times.layer_programs}
    singles = {one.room.context for one in times.layer_programs if one.room.sequences == one.room.rows == 1}
    if not contexts or contexts != singles or (times.head_programs and times.head_programs[0].room != Room(1, 1, 1)):
        raise InvalidInput("a stage's times lack a program of a single row")
    return times


def _program_time(message: pb.ProgramTime) -> ProgramTime:
    values = (*message.seconds, *message.joules)
    shaped = len(message.seconds) == len(SPENT) and len(message.joules) == len(JOULES)
    sizes = (message.sequences, message.rows, message.context)
    if not shaped or not all(math.isfinite(value) for value in values) or not all(sizes) or min(sizes[:2]) != 1:
        raise InvalidInput("a stage's times are not those of programs")
    if sum(message.seconds) < 0 or sum(message.joules) < 0:
        raise InvalidInput("a stage's times are not those of programs: one takes less than nothing")
    return ProgramTime(Room(*sizes), tuple(message.seconds), tuple(message.joules))


def _figures(core: Core) -> dict[str, Any]:
    """Its figures; not what is kept of it."""
    return {field.name: getattr(core, field.name) for field in fields(Core)}


def _bad(figure: str) -> InvalidInput:
    return InvalidInput(f"a chip's core is refused: its {figure} is that of no chip", advice="see docs/isa.md, Chips")
