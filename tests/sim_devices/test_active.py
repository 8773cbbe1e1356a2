from __future__ import annotations

from sim_devices.active import HEALTHY, Active, FaultCondition, condition_of, cuts_of, healed, words_for
from sim_devices.faults import parse_fault


def active(*texts: str) -> list[Active]:
    return [Active(number, parse_fault(text), 0, None) for number, text in enumerate(texts, 1)]


FAULTS = [parse_fault(text) for text in ("slow a,b 2", "slow a 4", "hang b", "overheat c 95", "full-disk c", "clock-skew a -1h", "kill d")]


def test_what_faults_come_to() -> None:
    assert condition_of("a", FAULTS) == FaultCondition(slowdown=4, clock_skew_seconds=-3600)
    assert condition_of("b", FAULTS) == FaultCondition(slowdown=2, hung=True)
    assert condition_of("c", FAULTS) == FaultCondition(celsius=95, disk_full=True)
    assert condition_of("d", FAULTS) == FaultCondition(off=True)
    assert condition_of("e", [*FAULTS, parse_fault("cut e a")]) == HEALTHY


def test_a_device_is_told_the_difference_and_back() -> None:
    there = FaultCondition(slowdown=4, celsius=95, disk_full=True, battery_empty=True, clock_skew_seconds=60)
    assert words_for(HEALTHY, there) == [["slow", "4"], ["temperature", "95"], ["disk", "full"], ["battery", "0"], ["clock", "60"]]
    assert words_for(there, HEALTHY) == [["slow", "1"], ["temperature", "-"], ["disk", "ok"], ["battery", "1"], ["clock", "0"]]
    assert words_for(there, there) == []


def test_cuts_add_up() -> None:
    assert cuts_of([parse_fault("cut a b"), parse_fault("partition a | c,d")]) == {frozenset(pair) for pair in ("ab", "ac", "ad")}


def test_healing_everything_or_one_number_or_one_device() -> None:
    present = active("slow a,b 2", "cut a c", "partition a,b | c,d", "hang d")
    assert healed(present, []) == ([], present)
    stays, ends = healed(present, ["2"])
    assert ([one.number for one in stays], ends) == ([1, 3, 4], [present[1]])
    stays, ends = healed(present, ["a"])
    assert [(one.number, one.fault.text) for one in stays] == [(1, "slow b 2"), (3, "partition b | c,d"), (4, "hang d")]
    assert [(one.number, one.fault.text) for one in ends] == [(1, "slow a 2"), (2, "cut a c"), (3, "partition a")]
    assert [one.number for one in healed(present, ["*"])[0]] == []
