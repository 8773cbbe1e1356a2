"""Cycles of programs: equal to SCALE-Sim's where nothing stalls, bound by DRAM where that is slow, and never better for less."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.chip.assembly import assemble
from protos.chip.core import Core, Dataflow, Mechanism
from protos.chip.timing import Timing, time_program
from protos.errors import Corrupt
from tests.support.chips import GENERIC, bare

# rows x outputs x inputs: of GLM-Edge-1.5B's layers and of small ones.
GEMMS = [
    (1, 3072, 2048),
    (16, 3072, 2048),
    (128, 2048, 2048),
    (128, 1536, 2048),
    (128, 2048, 6144),
    (128, 128, 128),
    (128, 512, 512),
    (1, 512, 512),
]
# (dataflow, array, GEMM): what SCALE-Sim 3.0.0 counts without stalls (CALC mode). Made by a configuration of one array without limits of
# memory, `python -m scalesim.scale -c ... -t ...`, which needs numpy < 2.4; benchmarks/README.md says how.
SCALE_SIM = {
    ("weight-stationary", 128, (1, 3072, 2048)): 147_071,
    ("weight-stationary", 128, (16, 3072, 2048)): 152_831,
    ("weight-stationary", 128, (128, 2048, 2048)): 130_559,
    ("weight-stationary", 128, (128, 1536, 2048)): 97_919,
    ("weight-stationary", 128, (128, 128, 128)): 509,
    ("weight-stationary", 32, (1, 3072, 2048)): 583_679,
    ("weight-stationary", 32, (128, 2048, 2048)): 909_311,
    ("weight-stationary", 32, (128, 128, 128)): 3_551,
    ("weight-stationary", 32, (128, 512, 512)): 56_831,
    ("weight-stationary", 32, (1, 512, 512)): 24_319,
    ("output-stationary", 128, (1, 3072, 2048)): 55_247,
    ("output-stationary", 128, (16, 3072, 2048)): 55_247,
    ("output-stationary", 128, (128, 2048, 2048)): 36_831,
    ("output-stationary", 128, (128, 1536, 2048)): 27_623,
    ("output-stationary", 128, (128, 2048, 6144)): 102_367,
    ("output-stationary", 128, (128, 128, 128)): 381,
    ("output-stationary", 32, (128, 512, 512)): 36_735,
    ("output-stationary", 32, (1, 512, 512)): 9_183,
}


def one_array(dataflow: Dataflow, size: int, *mechanisms: Mechanism) -> Core:
    return replace(GENERIC, dataflow=dataflow, arrays=1, rows=size, columns=size, mechanisms=frozenset(mechanisms))


def gemm(core: Core, rows: int, outputs: int, inputs: int, flags: str = "") -> Timing:
    """Tiles of a product one after the other, weights and activations being there."""
    if core.dataflow == "weight-stationary":
        loops, tile, depth = (outputs // core.columns, inputs // core.rows), rows, core.rows
    else:
        loops, tile, depth = (outputs // core.columns, -(-rows // core.rows)), min(rows, core.rows), inputs
    zero = "SET register=0 base=0 pitch=0\n"
    bank = f"RING register=4 slots={core.banks} slot_bytes=1\n" + "SYNC.array signal=4\n" * core.banks
    body = (
        f"PRELOAD.u8 wait=4 signal=3 source=r0 zeros=- bank=r4 depth={depth} width={core.columns}\n"
        f"GEMM{flags} wait=3 signal=4 source=r0 bank=r4+ to=acc:r0 state=- rows={tile} depth={depth} width={core.columns}\n"
    )
    text = f"{zero}{bank}LOOP level=2 count={loops[0]}\nLOOP level=1 count={loops[1]}\n{body}END level=1\nEND level=2\n"
    return time_program(bare(assemble(text + "SYNC.weights wait=4\n" * core.banks + "FINISH"), core), core)


@pytest.mark.parametrize(("dataflow", "size", "shape"), SCALE_SIM, ids=str)
def test_stall_free_cycles_are_those_of_scale_sim(dataflow: Dataflow, size: int, shape: tuple[int, int, int]) -> None:
    """It counts from cycle 0 to the last; the sequencer's first dispatches, and of output-stationary arrays the descriptors, are ours."""
    core = one_array(dataflow, size)
    found = gemm(core, *shape)
    tiles = found.counts.instructions // 2
    ours = 1 * tiles if dataflow == "output-stationary" else 0
    begin = 4 + core.banks  # instructions of the sequencer before the first tile
    assert found.cycles - begin - ours - 1 == pytest.approx(SCALE_SIM[dataflow, size, shape], abs=2)


def test_shadow_and_stream_leave_the_weights_rows_alone() -> None:
    """2,048 x 2,048 inputs and outputs, one row, 128 x 128: 256 tiles of 128 cycles each, and one fill."""
    core = one_array("weight-stationary", 128, "shadow", "stream")
    assert gemm(core, 1, 2048, 2048, ".stream").cycles == pytest.approx(256 * 128 + 254, rel=0.001)
    assert gemm(one_array("weight-stationary", 128), 1, 2048, 2048).cycles > 2.9 * 256 * 128


def stream(core: Core, slots: int, chunks: int, size: int, blocks: int) -> Timing:
    """Weights through a ring of slots, `blocks` tiles in each."""
    text = f"""
SET register=0 base=0 pitch={size}
RING register=0 slots={slots} slot_bytes={size}
SET register=8 base=0 pitch={size}
RING register=4 slots={core.banks} slot_bytes=1
{("SYNC.vector signal=2" + chr(10)) * slots}{("SYNC.array signal=4" + chr(10)) * core.banks}
LOOP level=1 count={chunks}
LOAD wait=2 signal=1 dram=8 to=r0 rows=1 bytes={size}
SYNC.weights wait=1
LOOP level=0 count={blocks}
PRELOAD.u8 wait=4 signal=3 source=r0 zeros=- bank=r4 depth={core.rows} width={core.width}
GEMM.stream wait=3 signal=4,5 source=r0 bank=r4+ to=acc:r8 state=- rows=1 depth={core.rows} width={core.width}
SYNC.vector wait=5
END level=0
SYNC.vector signal=2
NEXT register=0 count=1
END level=1
{("SYNC.load wait=2" + chr(10)) * slots}{("SYNC.weights wait=4" + chr(10)) * core.banks}FINISH"""
    return time_program(bare(assemble(text), core), core)


STREAMING = replace(GENERIC, mechanisms=frozenset({"shadow", "stream"}))


@settings(max_examples=15, deadline=None)
@given(
    bandwidth=st.floats(1e9, 1e12),
    chunks=st.integers(20, 200),
    blocks=st.integers(2, 16),
    slots=st.integers(3, 8),
)
def test_bound_by_arrays_or_dram_and_one_fill(bandwidth: float, chunks: int, blocks: int, slots: int) -> None:
    core = replace(STREAMING, dram_bytes_per_second=bandwidth, dma_seconds=1e-9)
    size = blocks * core.rows * core.width
    found = stream(core, slots, chunks, size, blocks)
    array, dram = chunks * blocks * core.rows, chunks * size / core.bytes_per_cycle
    fill = (array + dram) / chunks * 2 + 400  # the first chunk through all units, the sequencer's few cycles
    assert max(array, dram) <= found.cycles <= 1.05 * max(array, dram) + fill


@settings(max_examples=15, deadline=None)
@given(chunks=st.integers(1, 300), blocks=st.integers(1, 20), slots=st.integers(1, 8), factor=st.floats(1.01, 4))
def test_what_is_faster_is_never_slower(chunks: int, blocks: int, slots: int, factor: float) -> None:
    size = blocks * STREAMING.rows * STREAMING.width
    slow = stream(STREAMING, slots, chunks, size, blocks).cycles
    faster = replace(STREAMING, dram_bytes_per_second=factor * STREAMING.dram_bytes_per_second)
    assert stream(faster, slots, chunks, size, blocks).cycles <= slow
    assert stream(STREAMING, slots, chunks + 1, size, blocks).cycles >= slow
    if slots > 1:
        assert stream(STREAMING, slots - 1, chunks, size, blocks).cycles + 2 >= slow  # a slot more is announced, and taken back


def test_a_loop_costs_what_its_iterations_cost_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same to the tick as without any shortcut, in every figure."""
    short = [stream(STREAMING, 3, 97, 12 * 4096, 12), gemm(one_array("weight-stationary", 32), 5, 512, 512)]
    monkeypatch.setattr("protos.chip.timing._shift", lambda old, new, *, issue_binds: None)
    whole = [stream(STREAMING, 3, 97, 12 * 4096, 12), gemm(one_array("weight-stationary", 32), 5, 512, 512)]
    assert short == whole


def test_stalls_busy_time_and_joules_are_named() -> None:
    core = replace(STREAMING, dram_bytes_per_second=1e9)
    found = stream(core, 2, 50, 8 * 4096, 8)
    assert found.stalls["weights"]["weights or cache from DRAM"] > 0.8 * found.cycles
    assert found.busy["load"] > 0.95 * found.cycles
    assert found.dram_utilisation == pytest.approx(0.92, rel=0.05)
    assert found.joules["dram"] == pytest.approx(50 * 8 * 4096 * core.joules_per_dram_byte, rel=0.01)
    assert found.joules["idle"] == pytest.approx(found.seconds * core.idle_watts)


def test_a_wait_that_nobody_signals_is_refused_with_its_address() -> None:
    with pytest.raises(Corrupt, match="at 0x0000: SYNC: it waits for semaphore 1"):
        time_program(bare(assemble("SYNC.load wait=1\nFINISH")), GENERIC)
