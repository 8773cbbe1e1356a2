from __future__ import annotations

import pytest

from protos.physics.memory import cache_capacity, cache_positions, kv_position_bytes


@pytest.mark.parametrize(("context", "capacity"), [(1, 4), (2, 4), (100, 102), (101, 104)])
def test_capacity_is_even_and_has_room_for_padding(context: int, capacity: int) -> None:
    assert cache_capacity(context) == capacity


def test_every_slot_of_every_group_has_its_cache() -> None:
    assert cache_positions(101, groups=3, slots_per_group=6) == 104 * 18


def test_a_position_is_a_key_and_a_value_of_each_head() -> None:
    assert kv_position_bytes(3, 64, "float32") == 2 * 3 * 64 * 4
    assert kv_position_bytes(3, 64, "int8") == 2 * 3 * 64
    assert kv_position_bytes(3, 64, "int8", values_are_keys=True) == 3 * 64
