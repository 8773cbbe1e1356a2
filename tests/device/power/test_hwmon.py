"""Power monitors under a made-up /sys/class/hwmon, laid out as the kernel's drivers do."""

from __future__ import annotations

from pathlib import Path

import pytest

from device.power.hwmon import BoardMonitor


def chip(root: Path, number: int, name: str, **files: object) -> Path:
    folder = root / f"hwmon{number}"
    folder.mkdir(parents=True)
    for file, value in {"name": name, **files}.items():
        (folder / file).write_text(f"{value}\n")
    return folder


def jetson(root: Path, **more: object) -> Path:
    """An Orin NX's: volts in mV, amperes in mA; the third channel is switched off."""
    return chip(
        root,
        3,
        "ina3221",
        in1_label="VDD_IN",
        in1_input=5000,
        curr1_input=1200,
        in2_label="VDD_CPU_GPU_CV",
        in2_input=4992,
        curr2_input=400,
        in3_label="VDD_SOC",
        in7_label="sum of shunt voltages",
        in7_input=1234,
        curr4_input=1600,
        **more,
    )


def test_the_rail_of_the_whole_board_is_taken_alone(tmp_path: Path) -> None:
    chip(tmp_path, 0, "cpu_thermal", temp1_input=51000)
    jetson(tmp_path)
    monitor = BoardMonitor.find(tmp_path)
    assert monitor
    assert monitor.watts() == pytest.approx(6.0)
    assert monitor.what == "the board (VDD_IN)"


def test_rails_are_summed_where_none_is_known_to_carry_all(tmp_path: Path) -> None:
    chip(tmp_path, 1, "ina3221", in1_label="GPU", in1_input=19000, curr1_input=100, in2_label="NC", in2_input=0, curr2_input=7)
    chip(tmp_path, 2, "ina226", power1_input=2_500_000, in1_input=5000, curr1_input=9)  # its own product counts
    monitor = BoardMonitor.find(tmp_path)
    assert monitor
    assert monitor.watts() == pytest.approx(1.9 + 2.5)
    assert monitor.what == "its rails GPU, hwmon2 1"


def test_no_monitor_where_none_is_known_or_none_can_be_read(tmp_path: Path) -> None:
    assert BoardMonitor.find(tmp_path / "nowhere") is None
    chip(tmp_path, 0, "nvme", temp1_input=40000)
    chip(tmp_path, 1, "ina3221", in1_label="VDD_IN")
    assert BoardMonitor.find(tmp_path) is None


def test_one_that_is_lost_says_so(tmp_path: Path) -> None:
    folder = jetson(tmp_path)
    monitor = BoardMonitor.find(tmp_path)
    assert monitor
    (folder / "curr1_input").unlink()
    with pytest.raises(OSError):
        monitor.watts()
