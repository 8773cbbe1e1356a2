"""Chips that come along, each in two variants, and files of one's own: a figure that is missing, wrong or too much is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from protos.chip.core import MECHANISMS
from protos.errors import InvalidInput, NotFound
from sim_devices.chip.core_profiles import CORE_UNITS, VARIANTS, list_cores, load_core, parse_core
from sim_devices.profiles import list_profiles, load_profile

FOLDER = Path(__file__).resolve().parents[3] / "sim_devices" / "chip" / "profiles"
TEXT = (FOLDER / "edge-npu.toml").read_text()


@pytest.mark.parametrize("name", list_cores())
def test_each_has_every_figure_and_two_variants(name: str) -> None:
    profile = load_core(name)
    assert profile.figures.keys() == CORE_UNITS.keys()
    generic, codesigned = (profile.core(variant) for variant in VARIANTS)
    assert not generic.mechanisms
    assert codesigned.mechanisms == set(MECHANISMS)
    assert codesigned.launch_seconds < generic.launch_seconds
    assert codesigned.name != generic.name
    assert load_core(str(FOLDER / f"{name}.toml")).core("generic") == generic


@pytest.mark.parametrize("name", sorted(set(list_cores()) & set(list_profiles())))
def test_a_chip_is_the_board_of_its_name(name: str) -> None:
    """The same memory and bandwidth, and arrays that give the published compute."""
    board, core = load_profile(name), load_core(name).core("generic")
    assert core.macs_per_second == pytest.approx(board.figures["compute"].value, rel=0.03)
    assert core.dram_bytes_per_second == board.figures["memory_bandwidth"].value
    assert core.dram_bytes == board.memory_bytes
    assert core.idle_watts == board.idle_watts
    assert core.joules_per_dram_byte == board.figures["memory_energy"].value
    assert core.joules_per_mac == board.figures["compute_energy"].value


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[clock]", "[clocks]", "no [clock]"),
        ('unit = "Hz"', 'unit = "GHz"', "[clock] unit must be 'Hz'"),
        ("value = 32\n", "value = 32.5\n", "[array_rows] must be a whole number"),
        ("value = 32\n", "value = 5000\n", "[array_rows] must be at most 1,024"),
        ("value = 0.92", "value = 1.2", "[reachable] is a ratio, at most 1"),
        ('"weight-stationary"', '"row-stationary"', "[dataflow] must have value"),
        ("[generic]", "[plain]", "unknown [plain]"),
        ('"shadow"', '"magic"', "[codesigned] has no mechanism 'magic'"),
        ("[codesigned.launch]", "[codesigned.speed]", "unknown [codesigned.speed]"),
        ("description", "[[", "not TOML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_what_is_wrong(old: str, new: str, why: str) -> None:
    assert old in TEXT
    with pytest.raises(InvalidInput, match=r"^chip profile mine: ") as caught:
        parse_core("mine", TEXT.replace(old, new, 1))
    assert why in str(caught.value)


def test_one_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(NotFound, match="no chip profile 'abacus'") as caught:
        load_core("abacus")
    assert "edge-npu" in caught.value.advice
    with pytest.raises(NotFound, match=r"cannot read chip profile /nowhere/mine\.toml"):
        load_core("/nowhere/mine.toml")
