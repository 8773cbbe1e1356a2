"""The owner's command before the processor's counters, these before the board's monitor."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from device.power.find import find_meter
from device.power.hwmon import BoardMonitor
from device.power.meter import EnergyMeter
from device.power.rapl import Rapl
from tests.device.power.test_hwmon import jetson
from tests.support.powercap import add_domain


def found(meter: EnergyMeter | None) -> str:
    assert meter
    what = meter.what
    meter.close()
    return what


def test_which_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rapl, "find", functools.partial(Rapl.find, tmp_path / "powercap"))
    monkeypatch.setattr(BoardMonitor, "find", functools.partial(BoardMonitor.find, tmp_path / "hwmon"))
    assert find_meter() is None
    jetson(tmp_path / "hwmon")
    assert found(find_meter()) == "the board (VDD_IN)"
    add_domain(tmp_path / "powercap", "0", 5)
    assert found(find_meter()) == "the CPU package (RAPL)"
    assert found(find_meter("/usr/bin/sleep 60")) == "what sleep tells"
