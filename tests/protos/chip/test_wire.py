"""Cores and times as messages: they come back as they were, and what nobody's chip is, or no program takes, is refused by its name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protos.chip.wire import MOST_PROGRAMS, core_message, core_of, times_message, times_of
from protos.errors import InvalidInput
from protos.physics.programs import JOULES, SPENT, ProgramTime, Room, StageTimes
from protos.v1 import chip_pb2 as pb
from sim_devices.chip.core_profiles import VARIANTS, list_cores, load_core

CORE = load_core("edge-npu").core("codesigned")
ONE = tuple(0.25 for _ in SPENT), tuple(0.5 for _ in JOULES)
TIMES = StageTimes(
    tuple(ProgramTime(Room(*room), *ONE) for room in ((1, 1, 256), (2, 1, 256), (1, 16, 256))),
    (ProgramTime(Room(1, 1, 1), *ONE), ProgramTime(Room(2, 1, 1), *ONE)),
)


@pytest.mark.parametrize("name", list_cores())
def test_a_core_comes_back_as_it_was(name: str) -> None:
    for variant in VARIANTS:
        core = load_core(name).core(variant)
        message = pb.Core.FromString(core_message(core).SerializeToString())
        assert core_of(message) == core
        assert core_of(message).digest == core.digest


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("name", ""),
        ("name", "x" * 101),
        ("name", "a\nb"),
        ("dataflow", "row-stationary"),
        ("arrays", 0),
        ("arrays", 1025),
        ("rows", 4096),
        ("scratchpad_bytes", 1 << 40),
        ("clock_hertz", float("nan")),
        ("clock_hertz", -1.0),
        ("dram_bytes_per_second", float("inf")),
        ("reachable", 1.5),
        ("idle_watts", 0.0),
    ],
)
def test_a_core_of_no_chip_is_refused(figure: str, value: object) -> None:
    message = core_message(CORE)
    setattr(message, figure, value)
    with pytest.raises(InvalidInput, match=f"its {figure} is that of no chip"):
        core_of(message)


def test_a_mechanism_that_nobody_knows_is_refused() -> None:
    message = core_message(CORE)
    message.mechanisms.append("magic")
    with pytest.raises(InvalidInput, match="its mechanisms is that of no chip"):
        core_of(message)


def test_times_come_back_as_they_were() -> None:
    assert times_of(pb.StageTimes.FromString(times_message(TIMES).SerializeToString())) == TIMES


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.layers[0].seconds.pop(), "not those of programs"),
        (lambda m: m.layers[0].joules.append(1.0), "not those of programs"),
        (lambda m: m.layers[1].seconds.__setitem__(0, float("nan")), "not those of programs"),
        (lambda m: m.layers[1].seconds.__setitem__(1, -100.0), "less than nothing"),
        (lambda m: m.layers[1].joules.__setitem__(1, -100.0), "less than nothing"),
        (lambda m: setattr(m.layers[0], "rows", 0), "not those of programs"),
        (lambda m: setattr(m.layers[1], "rows", 2), "not those of programs"),
        (lambda m: m.layers.__delitem__(0), "lack a program of a single row"),
        (lambda m: setattr(m.layers[1], "context", 512), "lack a program of a single row"),
        (lambda m: m.layers.__delitem__(slice(None)), "lack a program of a single row"),
        (lambda m: m.head.__delitem__(0), "lack a program of a single row"),
        (lambda m: m.layers.extend([m.layers[0]] * MOST_PROGRAMS), f"{MOST_PROGRAMS} at most"),
    ],
)
def test_times_that_no_programs_have_are_refused(change: Callable[[pb.StageTimes], object], why: str) -> None:
    message = times_message(TIMES)
    change(message)
    with pytest.raises(InvalidInput, match=why):
        times_of(message)
