"""What a microbatch costs."""

from __future__ import annotations

from device.hardware import Work
from device.pipeline.work import decode_work, head_work, prefill_work, together
from device.stage_spec import Cost

COST = Cost(
    weight_bytes=9_000,
    read_bytes=7_000,
    macs_per_row=500,
    kv_bytes_per_token=40,
    head_read_bytes=3_000,
    head_macs_per_row=800,
    attention_macs_per_position=6,
)


def test_prefill_reads_the_weights_once_and_attends_to_all_before() -> None:
    # Rows at 10, 11, 12 see 11, 12 and 13 positions; 10 old rows are read, 3 are written and read.
    assert prefill_work(COST, 10, 3) == Work(7_000, 40 * 16, 3 * 500 + 36 * 6, 3)


def test_decode_reads_each_sequence_s_cache() -> None:
    # Rows at 4 and 9 see 5 and 10 positions, and each writes one.
    assert decode_work(COST, [4, 9]) == Work(7_000, 40 * 17, 2 * 500 + 15 * 6, 2)


def test_chunks_attend_to_as_much_as_the_whole() -> None:
    whole = prefill_work(COST, 0, 12)
    assert whole.macs == sum(prefill_work(COST, start, 4).macs for start in (0, 4, 8))
    assert whole.macs == sum(decode_work(COST, [position]).macs for position in range(12))


def test_the_head_reads_no_cache() -> None:
    assert head_work(COST, 2) == Work(3_000, 0, 1_600, 2)
    assert together(decode_work(COST, [0]), head_work(COST, 1)) == Work(10_000, 80, 1_306, 1)
