"""The verifier refuses each program that breaks a rule, and no other: small ones by hand, and compiled ones that were changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from protos.chip.accesses import accesses
from protos.chip.assembly import assemble
from protos.chip.core import Core
from protos.chip.instructions import Instruction
from protos.chip.program import Program, Region
from protos.chip.semaphores import CACHE_READ, FREE, OWN, PARAMETER_FREE, SEMAPHORES, STORED
from protos.chip.sequencer import Loop, Placed, Registers, tree
from protos.chip.verifier import verify
from protos.errors import Corrupt, InvalidInput, NoSpace
from quantize.compiler.compile import compile_stage
from quantize.compiler.ir import Shape
from quantize.compiler.lowering import Stage
from tests.quantize.families import CONFIGS
from tests.support.chips import CODESIGNED, GENERIC, bare, unmade

CORES = {"generic": GENERIC, "codesigned": CODESIGNED}
REGIONS = (Region("w", "weights", 0, 4096), Region("scores", "scratch", 4096, 4096))
SETUP = (
    "SET register=0 base=0 pitch=64\nSET register=1 base=0 pitch=64\nSET register=2 base=1024 pitch=64\nSET register=3 base=4096 pitch=64\n"
)
LOAD = "LOAD signal=8 dram=1 to=r0 rows=4 bytes=64\n"
ADD = "VEC.scale wait=8 to=r2 a=r0 b=- rows=4 columns=16 immediate=2.0\n"
STORE = "SYNC.vector signal=10\nSTORE wait=10 source=r2 dram=3 rows=4 bytes=64\n"


def program(text: str, core: Core = GENERIC) -> Program:
    return replace(bare(assemble(text + "FINISH"), core), regions=REGIONS)


def test_a_program_that_keeps_the_rules_is_taken() -> None:
    verify(program(SETUP + LOAD + ADD + STORE), GENERIC)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (SETUP + ADD, "VEC: it waits for semaphore 8, which nothing before it signals"),
        (
            SETUP + LOAD.replace("signal=8 ", "") + ADD.replace("wait=8 ", ""),
            "VEC: a does not wait for the load unit that writes scratchpad 0x0",
        ),
        (SETUP + LOAD, "FINISH: semaphore 8 was signalled and nobody waits for it"),
        (SETUP + ADD.replace("wait=8 ", ""), "VEC: a is read at 0x0 of scratchpad, where nothing was written"),
        (SETUP + LOAD + ADD.replace("rows=4", "rows=5"), "a is read at 0x100 of scratchpad, where nothing was written"),
        (SETUP + LOAD.replace("rows=4", "rows=65"), "LOAD: DRAM 0x0 to 0x1040 is not within one region"),
        (SETUP + LOAD + ADD + STORE.replace("dram=3", "dram=1"), "STORE: it writes into w"),
        (SETUP + LOAD + ADD + LOAD.replace("signal=8 ", ""), "LOAD: to does not wait for the vector unit that reads scratchpad 0x0"),
        (SETUP + LOAD + ADD + STORE + ADD.replace("wait=8 ", ""), "VEC: to does not wait for the store unit that reads scratchpad 0x400"),
        (SETUP + "SET register=2 base=1048576 pitch=64\n" + LOAD + ADD, "to is 0x100000 to 0x100100, and scratchpad ends at 0x100000"),
        (SETUP + "LOOP level=1 count=3\n" + LOAD, "LOOP: the loop does not end"),
        (SETUP + "END level=1\n", "END: it ends no loop"),
        (SETUP + "LOOP level=1 count=3\nLOOP level=1 count=3\nEND level=1\nEND level=1\n", "LOOP: level 1 is in use"),
        (SETUP + "LOOP level=1 count=3\n" + LOAD + "END level=1\n" + ADD * 3, "an iteration of this loop leaves other signals"),
        (SETUP + "FINISH\n", "FINISH: a program ends with FINISH, which is nowhere else"),
        (SETUP + "BEGIN operator=7\n", "BEGIN: there is no operation 7"),
        (SETUP + LOAD + ADD + "SYNC.vector signal=8\nSYNC.load wait=8\n", "semaphore 8 belongs to load, not to vector"),
        (SETUP + "RING register=4 slots=99 slot_bytes=1\n", "RING: a ring has at most 8 slots"),
        (SETUP + "PRELOAD.u8 source=r0 zeros=- bank=r0 depth=64 width=128\n", "PRELOAD: the arrays do not hold 64 x 128"),
        (SETUP + "GATHER_LOAD dram=1 places=r0 to=r2 rows=1 bytes=64 limit=2\n", "GATHER_LOAD: small does not have it"),
        (SETUP + "GEMM.stream source=r0 bank=r0 to=acc:r0 state=- rows=1 depth=8 width=8\n", "GEMM: small does not stream tiles"),
        (
            SETUP + "STEP register=1 level=2 bytes=64\nLOOP level=2 count=62\n" + LOAD + ADD.replace("a=r0", "a=r0") + "END level=2\n",
            "LOAD: DRAM 0x0 to 0x1040 is not within one region",
        ),
    ],
)
def test_each_rule_is_kept_by_refusing(text: str, why: str) -> None:
    with pytest.raises(Corrupt) as caught:
        verify(program(text), GENERIC)
    assert why in str(caught.value)
    assert "instruction at 0x" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_program_larger_than_its_core_is_refused() -> None:
    with pytest.raises(NoSpace, match="bytes of scratchpad"):
        verify(replace(program(""), scratchpad_bytes=GENERIC.scratchpad_bytes + 1), GENERIC)
    tight = replace(GENERIC, dram_bytes=8191)
    with pytest.raises(NoSpace, match="8,192 bytes of DRAM"):
        verify(program("", tight), tight)
    with pytest.raises(InvalidInput, match="compiled for another core: small, not this small"):
        verify(program(""), tight)
    with pytest.raises(Corrupt, match="regions w and scores overlap"):
        verify(replace(program(""), regions=(REGIONS[0], replace(REGIONS[1], address=4000))), GENERIC)


def test_a_tile_may_not_read_what_has_not_drained() -> None:
    """MATMUL_SOFTMAX leaves probabilities; the product with them must not stream in behind it."""
    text = SETUP + LOAD + ADD
    text += "SYNC.vector signal=7\nSYNC.array wait=7\nVEC.fill to=r2 a=- b=- rows=4 columns=16 immediate=0.0 signal=13\n"
    text += "SET register=4 base=4096 pitch=64\nSET register=5 base=0 pitch=1\nSET register=6 base=8192 pitch=64\n"
    text += "PRELOAD.f32 wait=13 signal=3 source=r2 zeros=- bank=r5 depth=4 width=4\n"
    text += "MATMUL_SOFTMAX wait=3 source=r0 bank=r5 partial=- state=r6 to=r4 first=5 rows=4 depth=4 width=4\n"
    product = "GEMM{} source=r4 bank=r5 to=acc:r5 state=- rows=4 depth=4 width=4\n"
    verify(program(text + product.format(".float"), CODESIGNED), CODESIGNED)
    with pytest.raises(Corrupt, match="source streams in before what it reads has drained"):
        verify(program(text + product.format(".stream.float"), CODESIGNED), CODESIGNED)


def small(core: Core) -> Program:
    """A layer with head and embedding, of which every kind of instruction is."""
    manifest = unmade(CONFIGS["glm-edge"], block_size=32)
    return compile_stage(manifest, Stage(manifest, range(1), True, True).parts, core, Shape(rows=2, context=64)).program


# In this program others do the same: with a launch for each operation no ring comes round within one, and all units meet at each.
NOT_ALONE = {"generic": {FREE, PARAMETER_FREE, OWN, CACHE_READ}, "codesigned": {STORED, OWN}}


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("semaphore", SEMAPHORES)
def test_without_a_semaphore_two_units_meet(semaphore: int, name: str) -> None:
    """All its signals and waits left out, so that nothing waits in vain: what it kept apart is found."""
    core = CORES[name]
    compiled = small(core)
    changed = [
        replace(
            one,
            waits=_without(one.waits, semaphore),
            signals=_without(one.signals, semaphore),
        )
        for one in compiled.instructions
    ]
    if changed == list(compiled.instructions) or semaphore in NOT_ALONE[name]:
        verify(replace(compiled, instructions=tuple(changed)), core)
        return
    with pytest.raises(Corrupt, match=r"does not wait for|where nothing was written"):
        verify(replace(compiled, instructions=tuple(changed)), core)


def _without(pair: tuple[int, int], semaphore: int) -> tuple[int, int]:
    first, second = (0 if number == semaphore else number for number in pair)
    return first, second


# Each takes instructions, one of which it changes so that a rule is broken; None where that one has nothing of the kind.
Mutation = Callable[[list[Instruction], int, random.Random], list[Instruction] | None]


def _at(instructions: Sequence[Instruction], place: int, *changed: Instruction) -> list[Instruction]:
    return [*instructions[:place], *changed, *instructions[place + 1 :]]


def drop_wait(instructions: list[Instruction], place: int, chance: random.Random) -> list[Instruction] | None:
    one = instructions[place]
    return _at(instructions, place, replace(one, waits=(0, one.waits[1]))) if one.waits[0] else None


def drop_signal(instructions: list[Instruction], place: int, chance: random.Random) -> list[Instruction] | None:
    one = instructions[place]
    return _at(instructions, place, replace(one, signals=(0, one.signals[1]))) if one.signals[0] else None


def wait_for_another(instructions: list[Instruction], place: int, chance: random.Random) -> list[Instruction] | None:
    one = instructions[place]
    other = chance.choice([number for number in SEMAPHORES if number != one.waits[0]])
    return _at(instructions, place, replace(one, waits=(other, one.waits[1]))) if one.waits[0] else None


def drop_what_others_wait_for(instructions: list[Instruction], place: int, chance: random.Random) -> list[Instruction] | None:
    one = instructions[place]
    return _at(instructions, place) if any(one.signals) or any(one.waits) else None


def point_beyond(instructions: list[Instruction], place: int, chance: random.Random) -> list[Instruction] | None:
    """No memory and no region reaches there."""
    one = instructions[place]
    if one.name != "SET" or one.has("keep_ring"):
        return None
    far = (1 << 40) + chance.randrange(1 << 30)
    return _at(instructions, place, replace(one, values=(one.values[0], far, one.values[2])))


def step_beyond(instructions: list[Instruction], place: int, chance: random.Random) -> list[Instruction] | None:
    one = instructions[place]
    return _at(instructions, place, replace(one, values=(*one.values[:2], 1 << 42))) if one.name == "STEP" and one["level"] < 5 else None


def load_more(instructions: list[Instruction], place: int, chance: random.Random) -> list[Instruction] | None:
    one = instructions[place]
    field = {"LOAD": 3, "STORE": 3}.get(one.name)
    return (
        None
        if field is None
        else _at(instructions, place, replace(one, values=(*one.values[:field], (1 << 31) + chance.randrange(1 << 30))))
    )


def open_a_loop(instructions: list[Instruction], place: int, chance: random.Random) -> list[Instruction] | None:
    return _at(instructions, place) if instructions[place].name in ("LOOP", "END") else None


def end_early(instructions: list[Instruction], place: int, chance: random.Random) -> list[Instruction] | None:
    return [*instructions[: place + 1], Instruction("FINISH")] if any(instructions[place].signals) else None


def too_wide(instructions: list[Instruction], place: int, chance: random.Random) -> list[Instruction] | None:
    one = instructions[place]
    return _at(instructions, place, replace(one, values=(*one.values[:-1], 60_000))) if one.name in ("PRELOAD", "GEMM") else None


MUTATIONS: tuple[Mutation, ...] = (
    drop_wait,
    drop_signal,
    wait_for_another,
    drop_what_others_wait_for,
    point_beyond,
    step_beyond,
    load_more,
    open_a_loop,
    end_early,
    too_wide,
)


def reaches(instructions: Sequence[Instruction], far: int) -> bool:
    """Whether an access of the program, every loop run whole, is beyond `far`."""
    registers = Registers()

    def run(body: Sequence[Placed | Loop]) -> bool:
        for node in body:
            if isinstance(node, Loop):
                for index in range(node.count):
                    registers.indices[node.level] = index
                    if run(node.body):
                        return True
                registers.indices[node.level] = 0
            else:
                registers.execute(node.instruction)
                if any(access.stop > far for access in accesses(node.instruction, registers)):
                    return True
                for operand in node.advances:
                    registers.advance(operand)
        return False

    return run(tree(instructions))


def refused_of(count: int, seed: int) -> int:
    chance = random.Random(seed)
    programs = [(small(core), core) for core in CORES.values()]
    refused = tried = 0
    while tried < count:
        compiled, core = chance.choice(programs)
        mutation = chance.choice(MUTATIONS)
        mutated = mutation(list(compiled.instructions), chance.randrange(len(compiled.instructions)), chance)
        if mutated is None or (mutation in (point_beyond, step_beyond) and not reaches(mutated, 1 << 39)):
            continue  # nothing to change there, or a register that nothing reads in a loop that is none
        tried += 1
        try:
            verify(replace(compiled, instructions=tuple(mutated)), core)
        except Corrupt:
            refused += 1
    return refused


def test_changed_programs_are_refused() -> None:
    assert refused_of(40, seed=1) == 40


@pytest.mark.long
def test_a_thousand_changed_programs_are_refused() -> None:
    assert refused_of(1000, seed=2) == 1000
