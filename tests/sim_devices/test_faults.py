from __future__ import annotations

import random

import pytest

from protos.errors import FleetError, InvalidInput, NotFound
from sim_devices.faults import KINDS, USAGE, Fault, matching, parse_fault, resolve

NAMES = ["lamp-1", "lamp-2", "lamp-10", "gateway"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill dev-2", Fault("kill", (("dev-2",),))),
        ("hang dev-1,dev-2", Fault("hang", (("dev-1", "dev-2"),))),
        ("slow dev-* 2.5", Fault("slow", (("dev-*",),), 2.5)),
        ("flip-bit one:dev-* 3fa9", Fault("flip-bit", (("one:dev-*",),), blob="3fa9")),
        ("clock-skew dev-1 -1h", Fault("clock-skew", (("dev-1",),), -3600.0)),
        ("overheat dev-1", Fault("overheat", (("dev-1",),), 110.0)),
        ("overheat dev-1 95", Fault("overheat", (("dev-1",),), 95.0)),
        ("cut dev-1 coordinator", Fault("cut", (("dev-1",), ("coordinator",)))),
        ("partition a,b|c", Fault("partition", (("a", "b"), ("c",)))),
        ("heal", Fault("heal", ((),))),
        ("heal 3", Fault("heal", (("3",),))),
    ],
)
def test_one_grammar_both_ways(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault
    assert parse_fault(fault.text) == fault


@pytest.mark.parametrize(
    "text",
    [
        "",
        "explode dev-1",
        "kill",
        "kill dev-1 dev-2 dev-3",
        "slow dev-1",
        "slow dev-1 fast",
        "slow dev-1 0.5",
        "slow dev-1 nan",
        "cut dev-1",
        "partition a,b",
        "partition a | a,b",
        "flip-bit dev-1 XYZ",
        "clock-skew dev-1 1 week",
        "overheat dev-1 9000",
        "kill ../x",
        "kill two:dev-*",
    ],
)
def test_what_is_no_fault_says_how_one_is_written(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_fault(text)
    assert caught.value.advice.startswith(("write: ", "known: kill, "))


def test_every_kind_tells_how_it_is_written() -> None:
    assert set(USAGE) == set(KINDS)
    for kind, (usage, _) in USAGE.items():
        assert usage.startswith(kind)


def test_patterns_mean_all_that_match_and_one_means_one_by_chance() -> None:
    assert matching(["lamp-*"], NAMES, random.Random(1)) == ("lamp-1", "lamp-2", "lamp-10")
    chosen = {matching(["one:lamp-*"], NAMES, random.Random(seed)) for seed in range(40)}
    assert chosen == {("lamp-1",), ("lamp-2",), ("lamp-10",)}
    with pytest.raises(NotFound, match="no device 'pole-\\*'"):
        matching(["pole-*"], NAMES, random.Random(1))


def test_cuts_are_between_pairs() -> None:
    cut = resolve(parse_fault("cut lamp-* coordinator"), NAMES, random.Random(1))
    assert cut.pairs() == {frozenset((lamp, "coordinator")) for lamp in ("lamp-1", "lamp-2", "lamp-10")}
    split = resolve(parse_fault("partition lamp-1,gateway | lamp-2"), NAMES, random.Random(1))
    assert split.pairs() == {frozenset(("lamp-1", "lamp-2")), frozenset(("gateway", "lamp-2"))}
    with pytest.raises(FleetError):
        resolve(parse_fault("cut lamp-1 lamp-1"), NAMES, random.Random(1))
    with pytest.raises(NotFound):
        resolve(parse_fault("kill coordinator"), NAMES, random.Random(1))
    assert resolve(parse_fault("kill lamp-1"), NAMES, random.Random(1)).pairs() == frozenset()


def test_help_fits_a_line_of_80() -> None:
    assert all(2 + 26 + len(meaning) < 78 and len(usage) <= 26 for usage, meaning in USAGE.values())
