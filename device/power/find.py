"""Which meter a board has."""

from __future__ import annotations

from device.power.command import CommandSensor
from device.power.hwmon import BoardMonitor
from device.power.meter import EnergyMeter, SampledMeter
from device.power.rapl import Rapl


def find_meter(command: str | None = None) -> EnergyMeter | None:
    """The owner's `command`, else the processor's counters, else the board's power monitor; None where there is none of them.

    Raises InvalidInput for a command that is none.
    """
    if command is not None:
        return SampledMeter(CommandSensor(command))
    if (rapl := Rapl.find()) is not None:
        return rapl
    monitor = BoardMonitor.find()
    return None if monitor is None else SampledMeter(monitor)
