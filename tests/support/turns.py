from __future__ import annotations

from collections.abc import Callable

from device.hardware import Hardware, RunReport
from protos.physics.timing import StageRun


async def run_once(hardware: Hardware, run: StageRun, compute: Callable[[], None]) -> RunReport:
    """A turn of one run."""
    return await hardware.turn(lambda: hardware.run(run, compute))
