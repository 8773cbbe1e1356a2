"""A stage's time, of the programs of a few of its layers, is that of the whole stage's program: cycles, joules, and what they go to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protos.chip.core import Core
from protos.chip.timing import dynamic_joules, time_program
from protos.errors import InvalidInput, NoSpace
from protos.manifest import Manifest, ModelConfig
from protos.physics.programs import JOULES, SPENT, ProgramTime, Room, StageTimes
from quantize.compiler.compile import unverified
from quantize.compiler.ir import Shape
from quantize.compiler.lowering import Stage
from quantize.compiler.stage_times import SINGLE, CompiledPrograms, Model, alike
from quantize.parts import EMBEDDING, stage_parts
from tests.quantize.families import CONFIGS
from tests.support.chips import CODESIGNED, GENERIC, unmade

GLM = replace(CONFIGS["glm-edge"], layers=7, max_positions=2048)
CORES = [GENERIC, replace(CODESIGNED, dataflow="output-stationary")]


def programs(manifest: Manifest, parts: tuple[str, ...], core: Core = CODESIGNED, kv_dtype: str = "float32") -> CompiledPrograms:
    return CompiledPrograms(Model.of(manifest), parts, core, kv_dtype)


def in_full(manifest: Manifest, stage: Stage, core: Core, room: Room) -> tuple[float, float]:
    """Seconds behind the first launch, and joules, of the program of all of it."""
    shape = Shape(room.sequences, room.rows, room.context)
    timing = time_program(unverified(manifest, stage.parts, core, shape).program, core)
    return timing.seconds - core.launch_seconds, sum(dynamic_joules(core, timing.counts).values())


def agrees(found: ProgramTime, expected: tuple[float, float]) -> None:
    assert (sum(found.seconds), sum(found.joules)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("core", CORES, ids=["generic", "codesigned"])
@pytest.mark.parametrize("room", [Room(1, 1, 2048), Room(4, 1, 512), Room(1, 16, 512)], ids=str)
def test_seven_layers_are_timed_by_three(core: Core, room: Room) -> None:
    manifest = unmade(GLM, block_size=32)
    for first, stop, embedding in ((0, 7, True), (2, 7, False), (6, 7, False)):
        stage = Stage(manifest, range(first, stop), embedding, False)
        agrees(programs(manifest, stage.parts, core).program(room), in_full(manifest, stage, core, room))


@pytest.mark.parametrize("family", ["glm-4.5", "glm-4.7-flash", "chatglm3"])
def test_layers_of_several_kinds(family: str) -> None:
    config = replace(CONFIGS[family], layers=6)
    manifest, room = unmade(config, block_size=32), Room(1, 1, config.max_positions)
    stage = Stage(manifest, range(6), True, False)
    agrees(programs(manifest, stage.parts).program(room), in_full(manifest, stage, CODESIGNED, room))


def test_where_the_scratchpad_is_full_a_lone_layer_has_other_tiles_and_more_have_not() -> None:
    """Of one layer alone less lives at once."""
    config = replace(GLM, hidden_size=1024, intermediate_size=4096, heads=8, kv_heads=2, head_dim=128, rotary_dim=128)
    manifest, room, core = unmade(config, block_size=128), Room(1, 16, 512), replace(CODESIGNED, scratchpad_bytes=1792 << 10)
    for stop in (1, 2, 6):
        stage = Stage(manifest, range(stop), False, False)
        agrees(programs(manifest, stage.parts, core).program(room), in_full(manifest, stage, core, room))


def test_the_output_head_is_a_program_of_its_own() -> None:
    manifest = unmade(GLM, block_size=32)
    head = programs(manifest, stage_parts(manifest, 0, 2, head=True)).head(3)
    assert head[0] == 1
    assert head[1].room == Room(4, 1, 1)
    assert head[1].seconds[SPENT.index("head")] == pytest.approx(sum(head[1].seconds))
    expected = in_full(manifest, Stage(manifest, range(0), False, True), CODESIGNED, Room(4, 1, 1))
    agrees(head[1], expected)


def test_a_run_takes_the_smallest_program_that_holds_it() -> None:
    manifest = unmade(GLM, block_size=32)
    own = programs(manifest, stage_parts(manifest, 0, 2))
    taken = {
        wanted: (times, found.room)
        for wanted in (Room(1, 1, 1), Room(3, 1, 300), Room(1, 17, 256), Room(1, 600, 600), Room(5000, 1, 5), Room(1, 1, 1 << 20))
        for times, found in [own.layers(wanted)]
    }
    assert list(taken.values()) == [
        (1, Room(1, 1, 256)),
        (1, Room(4, 1, 512)),
        (1, Room(1, 64, 256)),
        (10, Room(1, 64, 1024)),  # 256 rows do not fit this core
        (20, Room(256, 1, 256)),
        (1, Room(1, 1, 2048)),
    ]


def test_a_device_that_is_told_of_the_times_takes_the_same_programs() -> None:
    manifest = unmade(GLM, block_size=32)
    own = programs(manifest, stage_parts(manifest, 0, 3, head=True))
    told = own.listed(700, 4, 64)
    assert isinstance(told, StageTimes)
    for wanted in (Room(1, 1, 1), Room(3, 1, 300), Room(1, 17, 256), Room(1, 64, 700), Room(4, 1, 700)):
        assert told.layers(wanted) == own.layers(wanted)
    assert [told.head(rows) for rows in (1, 2, 4)] == [own.head(rows) for rows in (1, 2, 4)]
    assert max(one.room.context for one in told.layer_programs) == 1024


def test_one_that_executes_its_programs_takes_them_row_by_row() -> None:
    manifest = unmade(GLM, block_size=32)
    own = CompiledPrograms(Model.of(manifest), stage_parts(manifest, 0, 3), CODESIGNED, "float32", SINGLE)
    times, program = own.layers(Room(1, 9, 100))
    assert (times, program.room) == (9, Room(1, 1, 256))
    assert {one.room for one in own.listed(300, 8, 64).layer_programs} == {Room(1, 1, 256), Room(1, 1, 512)}


def test_joules_are_those_of_the_classes() -> None:
    manifest = unmade(GLM, block_size=32)
    stage = Stage(manifest, range(7), True, False)
    found = programs(manifest, stage.parts).program(Room(1, 1, 256))
    timing = time_program(unverified(manifest, stage.parts, CODESIGNED, Shape(1, 1, 256)).program, CODESIGNED)
    assert dict(zip(JOULES, found.joules, strict=True)) == pytest.approx(dynamic_joules(CODESIGNED, timing.counts))


def test_rows_that_do_not_fit_are_refused_once_and_again() -> None:
    tiny = replace(CODESIGNED, scratchpad_bytes=1 << 12)
    own = programs(unmade(GLM, block_size=32), (EMBEDDING, "layers.0", "positions"), tiny)
    for _ in range(2):
        with pytest.raises(NoSpace, match="does not fit into small"):
            own.layers(Room(1, 1, 100))


def test_an_operator_without_a_lowering_is_refused() -> None:
    manifest = unmade(GLM, 8, 32, symmetric=False)
    with pytest.raises(InvalidInput, match="8-bit weights with zero points"):
        programs(manifest, stage_parts(manifest, 0, 2)).layers(Room(1, 1, 100))


def kinds(config: ModelConfig) -> list[tuple[int, ...] | None]:
    model = Model.of(unmade(config, block_size=32))
    return [alike(model, layer) for layer in range(config.layers)]


def test_which_layers_are_alike() -> None:
    assert kinds(GLM) == [(0, 1, 2)] * 7
    dense_first = kinds(replace(CONFIGS["glm-4.5"], layers=5))
    assert dense_first[-1] is not None
    assert dense_first[0] is None or dense_first[0] != dense_first[-1]
