"""What mechanisms are worth on a model of full width: a layer of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.models import glm_edge
from protos.chip.core import Core
from protos.chip.timing import Timing, time_program
from protos.manifest import Quantization
from quantize.compiler.compile import compile_stage
from quantize.compiler.ir import Shape
from quantize.compiler.ladder import ladder, unmade
from quantize.compiler.lowering import Stage
from sim_devices.chip.core_profiles import load_core

EDGE = replace(glm_edge().config, layers=1, vocab_size=1024)
EIGHT, FOUR = Quantization(8, 128, True), Quantization(4, 128, True)


def timed(core: Core, shape: Shape, quantization: Quantization = EIGHT) -> Timing:
    manifest = unmade(EDGE, quantization)
    return time_program(compile_stage(manifest, Stage(manifest, range(EDGE.layers), False, False).parts, core, shape).program, core)


def test_the_ladder_from_a_third_of_the_bandwidth_to_most_of_it() -> None:
    chip = load_core("hbm-card")
    rungs = {
        rung.name: rung for rung in ladder(unmade(EDGE, EIGHT), chip.core("generic"), chip.core("codesigned"), Shape(kv_dtype="float16"))
    }
    times = [rung.timing.seconds for rung in rungs.values()]
    assert times == sorted(times, reverse=True)
    cheap, last = rungs["cheap launch"].timing, rungs["one launch, prefetch across operations"].timing
    assert 0.55 < cheap.dram_utilisation < 0.7
    assert last.dram_utilisation > 0.78  # 0.89 of all 28 layers: here a fill and the ends weigh more
    assert last.seconds < 0.76 * cheap.seconds
    assert rungs["layers of 4 bits"].joules < rungs["generic"].joules


def test_an_edge_part_gains_little_by_fusion_and_much_by_four_bits() -> None:
    chip = load_core("edge-npu")
    shape = Shape(kv_dtype="float16")
    streams = replace(chip.core("generic"), mechanisms=frozenset({"shadow", "stream"}))
    fused = replace(streams, mechanisms=streams.mechanisms | {"fused_softmax", "norm_quant"})
    assert 0.92 < timed(fused, shape).seconds / timed(streams, shape).seconds <= 1
    core = chip.core("codesigned")
    eight, four = timed(core, shape), timed(core, shape, FOUR)
    assert sum(four.joules.values()) < 0.6 * sum(eight.joules.values())


def test_bound_by_dram_within_five_percent() -> None:
    """The co-designed edge part: no more than the bytes at the reachable bandwidth, one fill and what depends on one another."""
    core = load_core("edge-npu").core("codesigned")
    found = timed(core, Shape(kv_dtype="float16"))
    ideal = found.counts.dram_bytes / (core.dram_bytes_per_second * core.reachable)
    assert ideal <= found.seconds <= 1.05 * ideal


@pytest.mark.parametrize("variant", [pytest.param("generic", marks=pytest.mark.long), "codesigned"])
def test_more_of_a_chip_is_never_slower_and_more_work_never_quicker(variant: str) -> None:
    core = load_core("horizon-journey-5").core("generic" if variant == "generic" else "codesigned")
    shape = Shape(context=512)
    base = timed(core, shape).seconds
    assert timed(replace(core, dram_bytes_per_second=2 * core.dram_bytes_per_second), shape).seconds <= base
    assert timed(replace(core, scratchpad_bytes=4 * core.scratchpad_bytes), shape).seconds <= 1.001 * base
    assert timed(replace(core, arrays=2 * core.arrays), shape).seconds <= 1.001 * base
    assert timed(core, replace(shape, rows=2)).seconds >= base
    assert timed(core, replace(shape, context=1024)).seconds >= base
    assert timed(core, replace(shape, sequences=2)).seconds >= base
