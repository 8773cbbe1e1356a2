"""A program's file: the same bytes for the same program, and nothing that was changed, cut or made by another version."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.chip.assembly import assemble
from protos.chip.program import MAGIC, Region, overlapping, parse_program
from protos.errors import Corrupt
from tests.support.chips import bare

PROGRAM = replace(
    bare(assemble("BEGIN.launch operator=0\nLOOP level=1 count=3\nNEXT register=4 count=1\nEND level=1\nFINISH")),
    regions=(Region("layers.0/o.weight", "weights", 0, 4096), Region("logits", "output", 4096, 64)),
    operators=("layers.0 o.out",),
)
DATA = PROGRAM.to_bytes()


def test_there_and_back() -> None:
    assert parse_program(DATA) == PROGRAM
    assert parse_program(DATA).to_bytes() == DATA
    assert PROGRAM.region("logits").stop == PROGRAM.dram_bytes == 4160


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 8 * len(DATA) - 1))
def test_a_flipped_bit_is_found(bit: int) -> None:
    damaged = bytearray(DATA)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Corrupt, match=r"^chip program: "):
        parse_program(bytes(damaged))


@pytest.mark.parametrize("length", [0, 1, len(MAGIC), 40, len(DATA) - 16, len(DATA) - 1])
def test_a_file_that_was_cut_is_refused(length: int) -> None:
    with pytest.raises(Corrupt, match=r"^chip program: "):
        parse_program(DATA[:length])


def test_another_version_is_named() -> None:
    with pytest.raises(Corrupt, match="version 9; this program reads 1"):
        parse_program(MAGIC + (9).to_bytes(4, "little") + DATA[len(MAGIC) + 4 :])


def test_regions_that_overlap_are_found() -> None:
    first, second = Region("a", "weights", 0, 100), Region("b", "cache", 99, 10)
    assert overlapping((second, first)) == (first, second)
    assert overlapping((first, replace(second, address=100), Region("empty", "cache", 50, 0))) is None
