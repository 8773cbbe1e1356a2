from __future__ import annotations

from sim_devices.links import WIRE, LinkRule, LinkShape, shape_between

SLOW, UP, WIFI = LinkShape(delay_seconds=0.02), LinkShape(rate_bits_per_second=5e6), LinkShape(0.003, 0.002, 8e7, 0.005)
RULES = [LinkRule("*", "*", SLOW, both_ways=True), LinkRule("lamp-*", "coordinator", UP, False), LinkRule("lamp-2", "gateway", WIFI, True)]


def test_the_last_rule_that_covers_a_link_counts() -> None:
    assert shape_between(RULES, "lamp-1", "gateway") == SLOW
    assert shape_between(RULES, "lamp-1", "coordinator") == UP
    assert shape_between(RULES, "coordinator", "lamp-1") == SLOW
    assert shape_between(RULES, "gateway", "lamp-2") == shape_between(RULES, "lamp-2", "gateway") == WIFI
    assert shape_between([], "a", "b") == WIRE


def test_texts_are_netems() -> None:
    assert [shape.text for shape in (WIRE, SLOW, UP, WIFI)] == ["", "delay 20ms", "rate 5mbit", "delay 3ms 2ms rate 80mbit loss 0.5%"]
