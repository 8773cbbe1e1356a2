"""The simulated devices of one home: each a child process with a folder of its own."""

from __future__ import annotations

import fcntl
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import psutil

from protos.errors import InvalidInput, NoSpace, NotFound, TimedOut, Unavailable, by_name

START_SECONDS = 60.0  # a cold start of the runtime on a busy two-core machine takes about ten
STOP_SECONDS = 5.0  # between SIGTERM and SIGKILL
RECORD = "device.json"
LOG = "log.txt"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class DeviceSpec:
    """A device to start. Named `<prefix>-<n>` with the lowest number that is free."""

    profile: str  # a name, or the path of a TOML file
    prefix: str = "dev"
    pace: Literal["fast", "realtime"] = "fast"
    memory_bytes: int | None = None  # None: the profile's
    hollow: int = 0  # so many hollow devices behind one gateway, in one process; `profile` then may name several: "a,b,c"


@dataclass(frozen=True)
class LocalDevice:
    """A device that was started and not stopped since. `running` is False when it ended by itself; `detail` then is its last word."""

    name: str
    profile: str
    pace: str
    memory_bytes: int | None
    pid: int
    started: float  # of the process, unix seconds as psutil tells it: a recycled pid is not this device
    device_id: str = ""
    address: str = ""
    running: bool = True
    detail: str = ""
    hollow: int = 0  # devices behind it: then it is a gateway


class LocalFleet:
    """Folders `<home>/sim/<name>/`; calls block, and wait for each other across processes.

    `issue(folder, name)` puts the identity there before a device starts, `issue_gateway` that of a gateway; they are not called for
    plaintext devices.
    """

    def __init__(
        self, home: Path, issue: Callable[[Path, str], object], issue_gateway: Callable[[Path, str], object] | None = None
    ) -> None:
        self._folder = home / "sim"
        self._issue = issue
        self._issue_gateway = issue_gateway or issue
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def up(self, specs: Sequence[DeviceSpec], *, interface: str = "127.0.0.1", insecure: bool = False) -> list[LocalDevice]:
        """Start these, beside what runs already; returns when all are ready. If one fails, those of this call are stopped again.

        Raises what the device said, with its name in front; TimedOut when it said nothing; InvalidInput for a prefix that is no name.
        """
        for spec in specs:
            if not _NAME.fullmatch(spec.prefix):
                raise InvalidInput(f"not a name for devices: {spec.prefix!r}", advice="use a to z, 0 to 9 and -, at most 40")
        with self._locked():
            taken = {device.name for device in self.status() if device.running}
            starting: list[_Starting] = []
            try:
                for spec in specs:
                    name = next(name for name in _names(spec.prefix) if name not in taken)
                    taken.add(name)
                    starting.append(self._start(name, spec, interface, insecure))
                deadline = time.monotonic() + START_SECONDS
                return [self._ready(one, deadline) for one in starting]
            except BaseException:
                self._stop([one.device for one in starting])
                raise
            finally:
                for one in starting:
                    assert one.process.stdout is not None
                    one.process.stdout.close()

    def down(self, names: Sequence[str] = (), *, purge: bool = False) -> list[str]:
        """Stop these (none given: all) and return who ran; again is no error. `purge` also deletes their folders: identity and blobs.

        Raises NotFound for a name that was never started.
        """
        with self._locked():
            for name in names:
                if not (_NAME.fullmatch(name) and (self._folder / name).is_dir()):
                    raise NotFound(f"no simulated device {name!r} in this home", advice="see `glmfleet sim status`")
            chosen = [device for device in self.status() if not names or device.name in names]
            self._stop(chosen)
            if purge:
                for folder in self._folders():
                    if not names or folder.name in names:
                        shutil.rmtree(folder)
            return [device.name for device in chosen if device.running]

    def status(self) -> list[LocalDevice]:
        """In order of name, numbers as numbers."""
        for child in self._children.values():
            child.poll()  # so that one that has ended is no zombie
        found = []
        for folder in self._folders():
            device = _read(folder / RECORD)
            if device and _process(device, folder):
                found.append(device)
            elif device:
                found.append(replace(device, running=False, detail=_last_line(folder / LOG) or "it ended without a word"))
        return sorted(found, key=lambda device: _in_order(device.name))

    def _start(self, name: str, spec: DeviceSpec, interface: str, insecure: bool) -> _Starting:
        folder = self._folder / name
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if not insecure:
                (self._issue_gateway if spec.hollow else self._issue)(folder, name)
            log = (folder / LOG).open("wb")
        except OSError as error:
            raise NoSpace(
                f"{name}: cannot write to {folder}: {error.strerror}", advice="free disk space, or choose another --home"
            ) from error
        module = "sim_devices.hollow" if spec.hollow else "sim_devices"
        command = [sys.executable, "-P", "-m", module, "--state", str(folder), "--name", name, "--interface", interface]
        for profile in spec.profile.split(",") if spec.hollow else [spec.profile]:
            command += ["--profile", str(Path(profile).absolute()) if "/" in profile or profile.endswith(".toml") else profile]
        command += ["--count", str(spec.hollow)] if spec.hollow else ["--pace", spec.pace]
        command += ["--memory", str(spec.memory_bytes)] if spec.memory_bytes else []
        command += ["--insecure"] if insecure else []
        # The same packages as this process uses, wherever it was started.
        paths = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        with log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )
        self._children[process.pid] = process
        try:
            started = psutil.Process(process.pid).create_time()
            pace = "" if spec.hollow else spec.pace
            device = LocalDevice(name, spec.profile, pace, spec.memory_bytes, process.pid, started, hollow=spec.hollow)
            _write(folder / RECORD, device)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return _Starting(device, process, folder)

    def _ready(self, one: _Starting, deadline: float) -> LocalDevice:
        line = _first_line(one.process, deadline)
        if line is None:
            raise TimedOut(f"{one.device.name} did not start within {START_SECONDS:.0f} s", advice=f"see {one.folder / LOG}")
        try:
            said = json.loads(line)
        except ValueError:
            said = {}
        if "error" in said:
            error = by_name(said["error"], said["detail"])
            error.advice = said.get("advice", "")
            raise error.at(one.device.name)
        if "address" not in said:
            word = _last_line(one.folder / LOG) or "it ended without a word"
            raise Unavailable(f"{one.device.name} did not start: {word}", advice=f"see {one.folder / LOG}")
        device = replace(one.device, device_id=said["device_id"], address=said["address"])
        _write(one.folder / RECORD, device)
        return device

    def _stop(self, devices: Sequence[LocalDevice]) -> None:
        """SIGTERM, then SIGKILL; and forget them."""
        processes = [process for device in devices if (process := _process(device, self._folder / device.name))]
        for process in processes:
            _signal(process, signal.SIGTERM)
        _, stubborn = psutil.wait_procs(processes, timeout=STOP_SECONDS)
        for process in stubborn:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(stubborn, timeout=STOP_SECONDS)
        for device in devices:
            (self._folder / device.name / RECORD).unlink(missing_ok=True)
            child = self._children.pop(device.pid, None)
            if child:
                child.wait()

    def _folders(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if path.is_dir()) if self._folder.is_dir() else []

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self._folder / ".lock").open("w")
        except OSError as error:
            raise InvalidInput(f"cannot write to {self._folder}: {error.strerror}", advice="choose another --home") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@dataclass(frozen=True)
class _Starting:
    device: LocalDevice
    process: subprocess.Popen[bytes]
    folder: Path


def _names(prefix: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{prefix}-{number}"


def _in_order(name: str) -> tuple[str, int]:
    prefix, _, number = name.rpartition("-")
    return prefix, int(number) if number.isdecimal() else 0


def _process(device: LocalDevice, folder: Path) -> psutil.Process | None:
    """The device's process if it is alive, and not another one that was given its pid."""
    try:
        process = psutil.Process(device.pid)
        # Both are read off the same clock, but psutil adds the time of boot, which may be corrected by a little.
        if abs(process.create_time() - device.started) > 2 or process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process if str(folder) in process.cmdline() else None
    except psutil.Error:
        return None


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _first_line(process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """Of stdout; empty when it ended without one, None when the deadline passed."""
    assert process.stdout is not None
    descriptor, data = process.stdout.fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while b"\n" not in data:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            more = os.read(descriptor, 65536)
            if not more:
                process.wait()
                return data
            data += more
    return data.partition(b"\n")[0]


def _read(path: Path) -> LocalDevice | None:
    try:
        return LocalDevice(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, device: LocalDevice) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(device), indent=1))
    part.replace(path)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:500] if lines else ""
