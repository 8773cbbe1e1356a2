"""Instructions as bytes and as text: both ways give what they were given, and what is none is refused with its place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.chip.assembly import assemble, disassemble
from protos.chip.encoding import decode, encode
from protos.chip.instructions import FIELD_BYTES, FORMATS, NONE, SIZE_BYTES, Field, Instruction
from protos.errors import Corrupt, InvalidInput


def values(field: Field) -> st.SearchStrategy[int | float]:
    if field.kind == "f4":
        return st.floats(width=32, allow_nan=False, allow_infinity=False)
    bits = 8 * FIELD_BYTES[field.kind]
    if field.kind == "s6":
        return st.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    if field.kind == "operand":
        return st.integers(0, 255).filter(lambda value: value & NONE != NONE or value == NONE)
    return st.integers(field.lowest, (1 << bits) - 1 if field.highest is None else field.highest)


@st.composite
def any_instruction(draw: st.DrawFn, names: tuple[str, ...] = tuple(FORMATS)) -> Instruction:
    name = draw(st.sampled_from(names))
    form = FORMATS[name]
    most = len(form.variants) - 1 if form.variants else (1 << len(form.flags)) - 1
    semaphores = st.tuples(st.integers(0, 15), st.integers(0, 15))
    silent = form.unit == "sequencer" and name not in ("SYNC", "FETCH")
    waits, signals = [(0, 0) if silent else draw(semaphores) for _ in range(2)]
    return Instruction(name, tuple(draw(values(field)) for field in form.fields), draw(st.integers(0, max(most, 0))), waits, signals)


@pytest.mark.parametrize("name", FORMATS)
def test_every_operation_fits_and_its_code_is_its_own(name: str) -> None:
    form = FORMATS[name]
    assert 4 + sum(FIELD_BYTES[field.kind] for field in form.fields) <= SIZE_BYTES
    assert [other for other, own in FORMATS.items() if own.code == form.code] == [name]
    assert len(form.flags) <= 8 and not (form.flags and form.variants)  # noqa: PT018


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_bytes_and_text_give_the_instruction_back(name: str, data: st.DataObject) -> None:
    instruction = data.draw(any_instruction((name,)))
    encoded = encode([instruction])
    assert len(encoded) == SIZE_BYTES
    assert decode(encoded) == (instruction,)
    assert assemble("\n".join(disassemble([instruction]))) == (instruction,)


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=16, max_size=16))
def test_any_bytes_are_an_instruction_that_encodes_to_them_or_refused_with_the_address(data: bytes) -> None:
    good = encode([Instruction("FINISH")])
    try:
        decoded = decode(good + data)
    except Corrupt as error:
        why = str(error)
    else:
        assert encode(decoded[1:]) == data
        return
    assert "at 0x0010" in why


@pytest.mark.parametrize(
    ("instruction", "why"),
    [
        (Instruction("JUMP"), "unknown operation 'JUMP'"),
        (Instruction("LOOP", (7, 2)), "level 7 is not within 0 and 6"),
        (Instruction("LOOP", (1, 0)), "count 0 is not within 1"),
        (Instruction("SET", (31, 0, 0)), "register 31"),
        (Instruction("SET", (1, 1 << 48, 0)), "base"),
        (Instruction("VEC", (1, 2, 3, 1, 8, 0.1), 0), "immediate is no float32"),
        (Instruction("VEC", (1, 2, 3, 1, 8, 0.0), 99), "unknown variant 99"),
        (Instruction("NEXT", (3, 1), 0, (1, 0)), "neither waits nor signals"),
        (Instruction("LOAD", (1, 31 | 128, 1, 8)), "has flags"),
        (Instruction("STEP", (1, 2)), "has 3 fields"),
    ],
)
def test_impossible_fields_are_refused(instruction: Instruction, why: str) -> None:
    with pytest.raises(Corrupt, match="at 0x0010") as caught:
        encode([Instruction("FINISH"), instruction])
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("HALT", "line 1: unknown operation 'HALT'"),
        ("\nLOOP level=1", "line 2: LOOP has the fields level, count"),
        ("VEC.twist to=r1 a=r2 b=- rows=1 columns=1 immediate=0.0", "line 1: VEC is written with one of: fill"),
        ("GEMM.fast source=r1", "GEMM has no 'fast'"),
        ("NEXT register=many count=1", "invalid literal"),
        ("LOAD dram=1 to=x rows=1 bytes=1", "to is no operand: 'x'"),
        ("NEXT register", "name=value"),
    ],
)
def test_text_that_is_no_program_is_refused_with_its_line(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=r"line \d") as caught:
        assemble(text)
    assert why in str(caught.value)


def test_cut_bytes_are_refused_with_the_address() -> None:
    with pytest.raises(Corrupt, match="at 0x0010: is cut short"):
        decode(encode([Instruction("FINISH")] * 2)[:-1])


def test_loops_are_indented_and_comments_skipped() -> None:
    text = "LOOP level=1 count=3\nNEXT register=4 count=1 # the next slot\nEND level=1\nFINISH"
    lines = list(disassemble(assemble(text)))
    assert lines[1] == "0x0010    NEXT register=4 count=1"
    assert lines[3] == "0x0030  FINISH"
