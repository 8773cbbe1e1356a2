"""What a run costs."""

from __future__ import annotations

from protos.physics.costs import StageCost, decode_work, head_work, prefill_work
from protos.physics.roofline import Load, Work

COST = StageCost(
    weight_bytes=9_000,
    read_bytes=7_000,
    macs_per_row=500,
    kv_bytes_per_token=40,
    head_read_bytes=3_000,
    head_macs_per_row=800,
    attention_macs_per_position=6,
    embedding_bytes_per_row=10,
    activation_bytes_per_row=20,
    operators=13,
    head_activation_bytes_per_row=30,
    head_operators=2,
)


def test_prefill_reads_the_weights_once_and_attends_to_all_before() -> None:
    # Rows at 10, 11, 12 see 11, 12 and 13 positions; 10 old rows are read, 3 are written and read.
    assert prefill_work(COST, 10, 3) == Work(
        linear=Load(7_000, 1_500), attention=Load(40 * 16, 36 * 6), elementwise=Load(60), embedding=Load(30), operators=13, rows=3
    )


def test_decode_reads_each_sequence_s_cache() -> None:
    # Rows at 4 and 9 see 5 and 10 positions, and each writes one.
    assert decode_work(COST, [4, 9]) == Work(
        linear=Load(7_000, 1_000), attention=Load(40 * 17, 15 * 6), elementwise=Load(40), embedding=Load(20), operators=13, rows=2
    )


def test_chunks_attend_to_as_much_as_the_whole() -> None:
    whole = prefill_work(COST, 0, 12)
    assert whole.macs == sum(prefill_work(COST, start, 4).macs for start in (0, 4, 8))
    assert whole.macs == sum(decode_work(COST, [position]).macs for position in range(12))


def test_the_head_reads_no_cache() -> None:
    assert head_work(COST, 2) == Work(head=Load(3_000, 1_600), elementwise=Load(60), operators=2, rows=2)
    both = decode_work(COST, [0]) + head_work(COST, 1)
    assert (both.linear, both.head, both.operators, both.rows, both.dram_bytes) == (Load(7_000, 500), Load(3_000, 800), 15, 1, 10_090)
