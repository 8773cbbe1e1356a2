"""Energy counters of packages, against a made-up powercap folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from device.power.rapl import Rapl
from tests.support.powercap import RANGE_UJ, add_domain


def find(root: Path) -> Rapl:
    meter = Rapl.find(root)
    assert meter
    return meter


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    first, second = add_domain(tmp_path, "0", 100), add_domain(tmp_path, "1", 200, "package-1")
    part, platform = add_domain(tmp_path, "0:0", 300, "core"), add_domain(tmp_path, "2", 400, "psys")
    meter = find(tmp_path)
    assert meter.joules() == 0
    for file, value in ((first, 500_100), (second, 250_200), (part, 900_000), (platform, 900_000)):
        file.write_text(str(value))
    assert meter.joules() == pytest.approx(0.75)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    file = add_domain(tmp_path, "0", RANGE_UJ - 10)
    meter = find(tmp_path)
    file.write_text("4")  # 10 to the largest value, one to zero, four more
    assert meter.joules() == pytest.approx(15e-6)
    file.write_text(str(RANGE_UJ))
    file.write_text("3")
    assert meter.joules() == pytest.approx(15e-6 + (RANGE_UJ + 1 - 1) / 1e6)


def test_no_meter_where_there_is_none_or_it_says_nothing(tmp_path: Path) -> None:
    assert Rapl.find(tmp_path / "nowhere") is None
    assert Rapl.find(tmp_path) is None
    file = add_domain(tmp_path, "0", 5)
    assert Rapl.find(tmp_path) is not None
    file.write_text("")
    assert Rapl.find(tmp_path) is None
    file.unlink()
    assert Rapl.find(tmp_path) is None
    file.mkdir()  # an OSError for everybody, as a file of mode 0 is for all but root
    assert Rapl.find(tmp_path) is None


def test_two_packages_are_read_or_none(tmp_path: Path) -> None:
    add_domain(tmp_path, "0", 5)
    add_domain(tmp_path, "1", 5, "package-1").unlink()
    assert Rapl.find(tmp_path) is None


def test_a_counter_that_is_lost_stands_still(tmp_path: Path) -> None:
    file = add_domain(tmp_path, "0", 0)
    meter = find(tmp_path)
    file.write_text("70")
    assert meter.joules() == pytest.approx(70e-6)
    file.unlink()
    assert meter.joules() == pytest.approx(70e-6)
    file.write_text("90")
    assert meter.joules() == pytest.approx(90e-6)
