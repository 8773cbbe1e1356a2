"""The world around a home's simulated devices, seen from outside: one process that carries their links and their faults."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from protos import disks
from sim_devices import processes
from sim_devices.control import ask

FOLDER = ".world"
RECORD = "world.json"
START_SECONDS = 30.0
STOP_SECONDS = 5.0


class WorldProcess:
    """Of the folder that the devices' folders lie in; calls block."""

    def __init__(self, sim: Path) -> None:
        self._sim = sim
        self.folder = sim / FOLDER

    @property
    def running(self) -> bool:
        return self._process() is not None

    def ensure(self) -> None:
        """Start it unless it runs. Call under the fleet's lock. Raises what it says, TimedOut, Unavailable, NoSpace."""
        if self.running:
            return
        with disks.told(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            process = processes.start("sim_devices.world", ["--sim", str(self._sim), "--state", str(self.folder)], self.folder, {})
        try:
            processes.ready_line(process, "the links", self.folder, time.monotonic() + START_SECONDS, START_SECONDS)
            record = {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}
            with disks.told(self.folder / RECORD):
                (self.folder / RECORD).write_text(json.dumps(record))
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()

    def ask(self, *words: str, timeout_seconds: float = 10.0) -> object:
        """Raises its FleetErrors, Unavailable, TimedOut."""
        return ask(self.folder, words, timeout_seconds)

    def send(self, words: Sequence[str]) -> None:
        """As `ask`, if it runs."""
        if self.running:
            self.ask(*words)

    def stop(self) -> None:
        if process := self._process():
            processes.stop([process], STOP_SECONDS)
        (self.folder / RECORD).unlink(missing_ok=True)

    def _process(self) -> psutil.Process | None:
        try:
            record = json.loads((self.folder / RECORD).read_text())
            return processes.living(int(record["pid"]), float(record["started"]), self.folder)
        except (OSError, ValueError, KeyError, TypeError):
            return None
