"""What a run moves and computes."""

from __future__ import annotations

from protos.physics.costs import StageCost
from protos.physics.timing import Decode, Prefill, StageRun
from protos.physics.work import OperatorLoad, Work, work_of

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
    assert work_of(StageRun(COST, Prefill(10, 3))) == Work(
        linear=OperatorLoad(7_000, 1_500),
        attention=OperatorLoad(40 * 16, 36 * 6),
        elementwise=OperatorLoad(60),
        embedding=OperatorLoad(30),
        operators=13,
    )


def test_decode_reads_each_sequence_s_cache() -> None:
    # Rows at 4 and 9 see 5 and 10 positions, and each writes one.
    assert work_of(StageRun(COST, Decode((4, 9)))) == Work(
        linear=OperatorLoad(7_000, 1_000),
        attention=OperatorLoad(40 * 17, 15 * 6),
        elementwise=OperatorLoad(40),
        embedding=OperatorLoad(20),
        operators=13,
    )


def test_chunks_attend_to_as_much_as_the_whole() -> None:
    whole = work_of(StageRun(COST, Prefill(0, 12))).macs
    assert whole == sum(work_of(StageRun(COST, Prefill(start, 4))).macs for start in (0, 4, 8))
    assert whole == sum(work_of(StageRun(COST, Decode((position,)))).macs for position in range(12))


def test_the_output_head_reads_no_cache() -> None:
    assert work_of(StageRun(COST, head_rows=2)) == Work(head=OperatorLoad(3_000, 1_600), elementwise=OperatorLoad(60), operators=2)


def test_layers_and_output_head_in_one_run_are_both_of_them() -> None:
    both = work_of(StageRun(COST, Decode((0,)), head_rows=1, link_bytes=5))
    assert (both.linear, both.head, both.elementwise, both.operators) == (
        OperatorLoad(7_000, 500),
        OperatorLoad(3_000, 800),
        OperatorLoad(50),
        15,
    )
    assert (both.dram_bytes, both.link_bytes) == (7_000 + 3_000 + 80 + 10, 5)
