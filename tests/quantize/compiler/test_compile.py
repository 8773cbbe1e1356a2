"""Programs of whole stages: the same bytes each time, verified, and what a core or a model does not have refused in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protos.chip.core import Core
from protos.chip.instructions import CODESIGNED as CODESIGNED_NAMES
from protos.chip.program import parse_program
from protos.chip.timing import dynamic_joules, time_program
from protos.errors import FleetError, InvalidInput, NoSpace
from protos.manifest import ModelConfig
from quantize.compiler import allocation
from quantize.compiler.compile import PASSES, Compiled, compile_stage
from quantize.compiler.ir import Shape
from quantize.compiler.lowering import Stage
from tests.quantize.families import CONFIGS
from tests.support.chips import CODESIGNED, GENERIC, unmade

GLM = CONFIGS["glm-edge"]


def compiled(config: ModelConfig = GLM, core: Core = CODESIGNED, shape: Shape | None = None, **quantization: int) -> Compiled:
    manifest = unmade(config, **{"block_size": 32, **quantization})  # type: ignore[arg-type]
    stage = Stage(manifest, range(config.layers), True, True)
    return compile_stage(manifest, stage.parts, core, shape or Shape(context=64))


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_compiles(family: str) -> None:
    """For the generic and the co-designed core by turns."""
    core = GENERIC if sorted(CONFIGS).index(family) % 2 else CODESIGNED
    names = {instruction.name for instruction in compiled(CONFIGS[family], core).program.instructions}
    if core is GENERIC:
        assert not names & set(CODESIGNED_NAMES)
    else:
        assert {"MATMUL_SOFTMAX", "GATHER_LOAD"} <= names


@pytest.mark.parametrize(
    "core", [GENERIC, CODESIGNED, replace(CODESIGNED, dataflow="output-stationary")], ids=["generic", "codesigned", "output-stationary"]
)
def test_compiling_again_gives_the_same_bytes(core: Core) -> None:
    for family in ("glm-edge", "glm-4.5"):
        first = compiled(CONFIGS[family], core).program
        data = first.to_bytes()
        assert compiled(CONFIGS[family], core).program.to_bytes() == data
        assert parse_program(data) == first


@pytest.mark.parametrize(
    ("kv_dtype", "sequences", "rows"),
    [("float32", 1, 16), ("float32", 3, 1), ("float16", 1, 2), ("float16", 2, 5), ("int8", 1, 1), ("int8", 2, 3)],
)
def test_rows_sequences_and_caches_of_any_kind(kv_dtype: str, sequences: int, rows: int) -> None:
    for core in (GENERIC, CODESIGNED):
        found = compiled(core=core, shape=Shape(sequences, rows, 96, kv_dtype))
        caches = [region for region in found.program.regions if region.purpose == "cache"]
        item = {"float32": 4, "float16": 2, "int8": 1}[kv_dtype]
        assert sum(region.size_bytes for region in caches) == 2 * item * GLM.layers * sequences * 96 * GLM.kv_size


@pytest.mark.parametrize(("bits", "symmetric"), [(8, 1), (4, 1), (4, 0)])
def test_weights_of_every_scheme(bits: int, symmetric: int) -> None:
    program = compiled(bits=bits, symmetric=symmetric).program
    kinds = {instruction.kind for instruction in program.instructions if instruction.name == "PRELOAD"}
    assert f"u{bits}" in kinds
    assert any("zero_points" in region.name for region in program.regions) == (not symmetric)


def test_any_list_of_parts_is_a_stage_and_no_other_list() -> None:
    manifest = unmade(GLM, block_size=32)
    middle = Stage(manifest, range(1, 2), False, False)
    program = compile_stage(manifest, middle.parts, GENERIC, Shape(context=64)).program
    assert [region.name for region in program.regions if region.purpose in ("input", "output")] == ["hidden_in", "hidden_out"]
    with pytest.raises(InvalidInput, match=r"no stage: layers\.0, layers\.2"):
        compile_stage(manifest, ("layers.0", "layers.2"), GENERIC, Shape(context=64))
    with pytest.raises(InvalidInput, match=r"no part 'layers\.99'"):
        compile_stage(manifest, ("layers.99",), GENERIC, Shape(context=64))


@pytest.mark.parametrize("name", PASSES)
def test_each_pass_can_be_printed(name: str) -> None:
    text = compiled().dump(name)  # type: ignore[arg-type]
    assert len(text.splitlines()) > 10
    assert "layers.0" in text or name == "schedule"


def test_buffers_that_live_at_once_share_no_byte() -> None:
    found = compiled(shape=Shape(rows=16, context=64))
    assert allocation.overlaps(found.lifetimes, found.allocated) is None
    wrong = allocation.Allocation({**found.allocated.place, found.lifetimes[1].name: found.allocated.place[found.lifetimes[0].name]}, 0)
    meets = [one for one in found.lifetimes if one.meets(found.lifetimes[1])]
    assert (allocation.overlaps(found.lifetimes, wrong) is not None) == (len(meets) > 1)


def test_joules_of_operations_are_those_of_the_program() -> None:
    for core in (GENERIC, CODESIGNED):
        timing = time_program(compiled(core=core).program, core)
        by_operation = [sum(dynamic_joules(core, one.counts).values()) for one in timing.operators]
        assert sum(by_operation) == pytest.approx(sum(timing.joules.values()) - timing.joules["idle"], rel=1e-9)
        assert sum(one.cycles for one in timing.operators) == pytest.approx(timing.cycles)


def test_a_stage_costs_what_its_layers_cost() -> None:
    """Cut in two, the same multiplications; joules within 1 %: each stage receives and sends its rows."""
    manifest = unmade(GLM, block_size=32)

    def joules(*stages: Stage) -> float:
        programs = [compile_stage(manifest, stage.parts, CODESIGNED, Shape(context=64)).program for stage in stages]
        timings = [time_program(program, CODESIGNED) for program in programs]
        return sum(sum(dynamic_joules(CODESIGNED, timing.counts).values()) for timing in timings)

    half = GLM.layers // 2
    whole = joules(Stage(manifest, range(GLM.layers), True, False))
    assert joules(Stage(manifest, range(half), True, False), Stage(manifest, range(half, GLM.layers), False, False)) == pytest.approx(
        whole, rel=0.01
    )


@pytest.mark.parametrize(
    ("change", "shape", "why"),
    [
        ({"scratchpad_bytes": 4096}, Shape(context=64), "does not fit into small"),
        ({"accumulator_bytes": 64}, Shape(context=64), "does not fit into small"),
        ({}, Shape(rows=64, context=64), ""),
        ({"scratchpad_bytes": 1 << 16}, Shape(rows=64, context=64), "64 rows does not fit into small"),
        ({"dram_bytes": 1000}, Shape(context=64), "bytes of DRAM"),
        ({}, Shape(context=1 << 30), "is not within the model's"),
        ({}, Shape(rows=65, context=64), "65 rows do not go into 64 positions"),
        ({}, Shape(context=64, kv_dtype="int3"), "a cache of 'int3'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(change: dict[str, int], shape: Shape, why: str) -> None:
    if not why:
        assert compiled(core=replace(CODESIGNED, **change), shape=shape)  # type: ignore[arg-type]
        return
    with pytest.raises((InvalidInput, NoSpace), match=why) as caught:
        compiled(core=replace(CODESIGNED, **change), shape=shape)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_operator_without_a_lowering_is_named() -> None:
    with pytest.raises(FleetError, match="8-bit weights with zero points"):
        compiled(bits=8, symmetric=0)


def test_mechanisms_make_it_faster_one_after_the_other() -> None:
    """Of a model of real width: a tiny one has nothing to overlap."""
    wide = replace(
        GLM, hidden_size=1024, intermediate_size=4096, heads=8, kv_heads=2, head_dim=128, rotary_dim=128, layers=2, max_positions=2048
    )
    times = []
    for mechanisms in ((), ("shadow",), ("shadow", "stream"), ("shadow", "stream", "fused_softmax"), tuple(CODESIGNED.mechanisms)):
        core = replace(GENERIC, mechanisms=frozenset(mechanisms), scratchpad_bytes=8 << 20)
        times.append(time_program(compiled(wide, core, Shape(context=512)).program, core).cycles)
    assert times == sorted(times, reverse=True)
    assert times[-1] < 0.8 * times[0]
