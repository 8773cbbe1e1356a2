from __future__ import annotations

from collections.abc import Callable

from device.hardware import Hardware, RunReport
from protos.physics.roofline import Work


async def run_once(hardware: Hardware, work: Work, compute: Callable[[], None]) -> RunReport:
    """A turn of one run."""
    return await hardware.turn(lambda: hardware.run(work, compute))
