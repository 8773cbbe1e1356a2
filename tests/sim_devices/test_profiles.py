from __future__ import annotations

from pathlib import Path

import pytest

from protos.dialects import DIALECT
from protos.errors import InvalidInput, NotFound
from sim_devices.chip.core_profiles import core_of, load_core
from sim_devices.profiles import OPTIONAL_UNITS, UNITS, list_profiles, load_profile, parse_profile

SPECIAL = {"tdp": 10, "throttle": 9, "resume": 8}
GOOD = 'description = "a box"\n' + "\n".join(
    f'[{key}]\nvalue = {SPECIAL.get(key, 0.5 if unit == "ratio" else 2)}\nunit = "{unit}"\nsource = "a test"\ntrust = "estimated"'
    for key, unit in UNITS.items()
)


def test_the_profiles_that_come_along() -> None:
    assert set(list_profiles()) >= {"horizon-journey-5", "rk3588", "raspberry-pi-5", "jetson-orin-nano-super", "cambricon-mlu370-x8"}


@pytest.mark.parametrize("name", list_profiles())
def test_every_figure_has_a_unit_a_source_and_its_trust(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert {key: figure.unit for key, figure in profile.figures.items() if key not in OPTIONAL_UNITS} == UNITS
    assert all(figure.source for figure in profile.figures.values())
    # Anything that claims no measurement must not claim trust either.
    assert all(figure.trust == "estimated" for figure in profile.figures.values() if "no measurement" in figure.source)


@pytest.mark.parametrize(
    ("name", "dense_tops"),
    [("horizon-journey-5", 128), ("jetson-orin-nano-super", 33.5), ("rk3588", 6), ("cambricon-mlu370-x8", 256), ("raspberry-pi-5", 0.6)],
)
def test_compute_is_dense_and_in_macs(name: str, dense_tops: float) -> None:
    assert load_profile(name).figures["compute"].value == dense_tops * 1e12 / 2


def test_figures_in_use_are_after_efficiency() -> None:
    profile = parse_profile("p", GOOD)
    assert (profile.effective.linear_bytes_per_second, profile.effective.attention_macs_per_second) == (1.0, 1.0)
    assert profile.estimated == tuple(UNITS)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text(GOOD)
    assert load_profile(str(tmp_path / "box.toml")) == parse_profile("box", GOOD)


def test_a_board_may_name_its_chip_and_what_it_is_timed_by(tmp_path: Path) -> None:
    words = 'chip = "mine.toml"\nvariant = "codesigned"\ntiming = "compiled"\n'
    (tmp_path / "box.toml").write_text(words + GOOD)
    box = load_profile(str(tmp_path / "box.toml"))
    assert (box.chip, box.variant, box.timed_by, box.dialect) == (str(tmp_path / "mine.toml"), "codesigned", "compiled", DIALECT)
    assert (box.run_as("roofline").timed_by, box.run_as("", "glm-isa").dialect) == ("roofline", "glm-isa")
    chip = (Path(__file__).resolve().parents[2] / "sim_devices/chip/profiles/edge-npu.toml").read_text()
    (tmp_path / "mine.toml").write_text(chip)
    core = core_of(box)
    assert core
    assert core.name == "mine (codesigned)"
    assert core_of(box.run_as("roofline")) is None
    assert load_profile("rk3588").run_as("", "glm-isa").timed_by == "compiled"


@pytest.mark.parametrize("name", sorted({one.chip for one in map(load_profile, list_profiles()) if one.chip}))
def test_each_chip_that_a_board_names_comes_along(name: str) -> None:
    assert load_core(name).core("generic").macs_per_second > 0


@pytest.mark.parametrize("name", ["nope", "", "../rk3588.toml", "rk3588\0"])
def test_an_unknown_name_lists_those_there_are(name: str) -> None:
    with pytest.raises(NotFound) as caught:
        load_profile(name)
    assert caught.value.advice


def test_the_advice_names_the_profiles() -> None:
    with pytest.raises(NotFound) as caught:
        load_profile("nope")
    assert all(name in caught.value.advice for name in list_profiles())


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("description", "[", "not TOML"),
        ('description = "a box"', "", "no description"),
        ("description", 'timing = "guessed"\ndescription', "timing 'guessed' is none of roofline, compiled"),
        ("description", 'dialect = "klingon"\ndescription', "dialect 'klingon' is none of"),
        ("description", 'timing = "compiled"\ndescription', "it names no chip"),
        ("description", "chip = 3\ndescription", "chip must be a text"),
        ("[tdp]", "[tpd]", r"no \[tdp\]"),
        ("[tdp]", "[more]\n[tdp]", r"unknown \[more\]"),
        ("value = 10", "value = 1", r"\[tdp\] must be above"),
        ("value = 10", "value = -1", r"\[tdp\] value"),
        ("value = 10", "value = nan", r"\[tdp\] value"),
        ("value = 10", 'value = "10"', r"\[tdp\] value"),
        ("value = 10", "value = 10\nextra = 1", r"\[tdp\] must have"),
        ('unit = "J/byte"', 'unit = "pJ/bit"', "unit must be 'J/byte'"),
        ("value = 0.5", "value = 1.5", "at most 1"),
        ('source = "a test"', 'source = ""', "name its source"),
        ('trust = "estimated"', 'trust = "sure"', "trust must be one of"),
    ],
)
def test_a_wrong_profile_is_refused_and_the_figure_named(before: str, after: str, says: str) -> None:
    assert before in GOOD
    with pytest.raises(InvalidInput, match=says) as caught:
        parse_profile("mine", GOOD.replace(before, after, 1))
    assert "profile mine" in caught.value.detail
