"""The cache's slots: shared memory, moves, freeing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import psutil

from device.engine.kv import SlotGroup, reserved
from device.engine.stage import bound_caches
from device.stage_spec import StageShape

SHAPE = StageShape(
    hidden_size=8,
    vocab_size=50,
    first_layer=3,
    stop_layer=5,
    kv_heads=2,
    head_dim=4,
    context=6,
    groups=1,
    slots_per_group=4,
    prefill_chunk=2,
    row_multiple=1,
)


def arrays(group: SlotGroup, start: int = 0, stop: int = 4) -> dict[str, np.ndarray]:
    return {past: value.numpy() for past, _, value in bound_caches(group, start, stop)}


def test_each_layer_has_keys_and_values_bound_for_reading_and_writing() -> None:
    bound = [(past, present, value.shape()) for past, present, value in bound_caches(SlotGroup(SHAPE), 1, 3)]
    names = [(f"past_{what}.{layer}", f"present_{what}.{layer}") for layer in (3, 4) for what in ("key", "value")]
    assert [(past, present) for past, present, _ in bound] == names
    assert {tuple(shape) for _, _, shape in bound} == {(2, 2, 8, 4)}


def test_an_int8_cache_takes_a_quarter() -> None:
    shape = replace(SHAPE, kv_dtype="int8")
    assert {values.dtype for values in arrays(SlotGroup(shape)).values()} == {np.dtype(np.int8)}
    assert sum(values.nbytes for values in arrays(SlotGroup(shape)).values()) == shape.kv_bytes == SHAPE.kv_bytes // 4


def test_what_is_bound_is_the_cache_itself() -> None:
    group = SlotGroup(SHAPE)
    arrays(group, 1, 2)["past_key.3"][0, 1, 5, 2] = 9
    whole = arrays(group)
    assert whole["past_key.3"][1, 1, 5, 2] == 9
    assert sum(int((values != 0).sum()) for values in whole.values()) == 1


def filled() -> tuple[SlotGroup, dict[str, np.ndarray]]:
    group = SlotGroup(SHAPE)
    random = np.random.default_rng(0)
    for values in arrays(group).values():
        values[...] = random.standard_normal(values.shape)
    group.lengths = [2, 0, 1, 5]
    return group, {name: values.copy() for name, values in arrays(group).items()}


def test_swapped_slots_hold_what_the_other_held() -> None:
    group, before = filled()
    group.swap(3, 0)
    assert group.lengths == [5, 0, 1, 2]
    for name, values in arrays(group).items():
        expected = before[name].copy()
        expected[0, :, :5], expected[3, :, :5] = before[name][3, :, :5], before[name][0, :, :5]
        assert (values == expected).all()


def test_a_copy_gives_the_first_rows_and_no_more() -> None:
    group, before = filled()
    group.copy(3, 1, 4)
    assert group.lengths == [2, 4, 1, 5]
    for name, values in arrays(group).items():
        expected = before[name].copy()
        expected[1, :, :4] = before[name][3, :, :4]
        assert (values == expected).all()


def test_values_that_are_keys_lie_in_the_same_memory() -> None:
    shape = replace(SHAPE, values_are_keys=True)
    assert shape.kv_bytes == SHAPE.kv_bytes // 2
    group = SlotGroup(shape)
    for keys in (values for name, values in arrays(group).items() if "key" in name):
        keys[...] = np.arange(keys.size, dtype=np.float32).reshape(keys.shape)
    before = arrays(group)["past_key.3"].copy()
    assert all((values == before).all() for values in arrays(group).values())
    group.lengths = [2, 0, 1, 5]
    group.swap(3, 0)
    group.copy(0, 1, 4)
    after = arrays(group)["past_value.3"]
    assert (after[0, :, :5] == before[3, :, :5]).all()
    assert (after[3, :, :5] == before[0, :, :5]).all()
    assert (after[1, :, :4] == before[3, :, :4]).all()


def test_a_run_that_was_given_up_writes_no_length_of_the_new_ones() -> None:
    group = SlotGroup(SHAPE)
    begun_with = group.lengths
    group.free_all()
    begun_with[1] = 5
    assert group.lengths == [0] * 4


def test_a_reserved_cache_takes_memory_only_where_it_is_written() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    cache = reserved((16, 4, 4096, 64), np.float32)  # 64 MiB
    assert not cache[3, 2, 100].any()
    cache[:, :, :8] = 1.0  # a few rows in each slot
    assert process.memory_info().rss - before < 8 << 20
