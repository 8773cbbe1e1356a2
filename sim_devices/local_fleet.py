"""The simulated devices of one home: each a child process with a folder of its own."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import psutil

from protos import disks
from protos.errors import Conflict, InvalidInput, NotFound
from protos.ids import digest_of
from sim_devices import processes
from sim_devices.control import CONTROL
from sim_devices.figures import is_path
from sim_devices.world_process import WorldProcess

START_SECONDS = 60.0  # a cold start of the runtime on a busy two-core machine takes about ten
STOP_SECONDS = 5.0  # between SIGTERM and SIGKILL
RECORD = "device.json"
BOARD = "board.json"  # what its identity stands for; unlike the record it stays when the device is stopped

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class DeviceSpec:
    """A device to start. Named `name`, or `<prefix>-<n>` with the lowest number that is free.

    `linked`: its connections pass through the world, which shapes and cuts them.
    """

    profile: str  # a name, or the path of a TOML file
    prefix: str = "dev"
    name: str = ""
    pace: Literal["fast", "realtime"] = "fast"
    memory_bytes: int | None = None  # None: the profile's
    hollow: int = 0  # so many hollow devices behind one gateway, in one process; `profile` then may name several: "a,b,c"
    ambient_celsius: float | None = None  # None: the profile's
    labels: Mapping[str, str] = field(default_factory=dict)
    linked: bool = False
    timing: str = ""  # these two: the profile's, unless named
    dialect: str = ""


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
    ambient_celsius: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    linked: bool = False
    interface: str = "127.0.0.1"
    insecure: bool = False
    timing: str = ""
    dialect: str = ""


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
        self.world = WorldProcess(self._folder)
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def up(
        self,
        specs: Sequence[DeviceSpec],
        *,
        interface: str = "127.0.0.1",
        insecure: bool = False,
        world: Sequence[Sequence[str]] = (),
    ) -> list[LocalDevice]:
        """Start these, beside what runs already; returns when all are ready. If one fails, those of this call are stopped again.

        `world`: what it is told before, word by word. Raises what the device said, with its name in front; TimedOut when it said nothing;
        InvalidInput for a name that is none, Conflict for one that runs.
        """
        for spec in specs:
            if not _NAME.fullmatch(spec.name or spec.prefix):
                raise InvalidInput(f"not a name for devices: {spec.name or spec.prefix!r}", advice="use a to z, 0 to 9 and -, at most 40")
        with self._locked():
            taken = {device.name for device in self.status() if device.running}
            for spec in specs:
                if spec.name in taken:
                    raise Conflict(f"{spec.name} runs already", advice=f"glmfleet sim down {spec.name}, or choose another --home")
            had_world = self.world.running
            starting: list[_Starting] = []
            try:
                if world or any(spec.linked for spec in specs):
                    self.world.ensure()
                for words in world:
                    self.world.ask(*words)
                for spec in specs:
                    name = spec.name or next(name for name in _names(spec.prefix) if name not in taken)
                    taken.add(name)
                    starting.append(self._start(_described(name, spec, interface, insecure)))
                deadline = time.monotonic() + START_SECONDS
                return [self._ready(one, deadline) for one in starting]
            except BaseException:
                self._stop([one.device for one in starting])
                if not had_world:
                    self.world.stop()
                raise
            finally:
                _close(starting)

    def restart(self, name: str, clock_skew_seconds: float = 0.0) -> LocalDevice:
        """Start a device again that has ended, with the state it had; one that runs is left alone. Raises as `up`, NotFound."""
        with self._locked():
            device = _read(self._folder / name / RECORD) if _NAME.fullmatch(name) else None
            if device is None:
                raise NotFound(f"no simulated device {name!r} in this home", advice="see `glmfleet sim status`")
            if self._living(device):
                return device
            one = self._start(device, clock_skew_seconds)
            try:
                return self._ready(one, time.monotonic() + START_SECONDS)
            except BaseException:
                one.process.kill()  # its record stays: it has ended, as before
                one.process.wait()
                raise
            finally:
                _close([one])

    def send(self, name: str, number: signal.Signals) -> bool:
        """False when it does not run."""
        device = _read(self._folder / name / RECORD)
        process = self._living(device) if device else None
        if process:
            processes.send_signal(process, number)
        return process is not None

    def folder(self, name: str) -> Path:
        return self._folder / name

    def with_world(self) -> WorldProcess:
        """The world, started if it does not run yet. Raises NotFound when no device was started."""
        with self._locked():
            if not self.status():
                raise NotFound("no simulated device runs in this home", advice="start some: glmfleet sim up --devices 3")
            self.world.ensure()
        return self.world

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
            if not self.status():
                self.world.stop()
                if purge:
                    shutil.rmtree(self.world.folder, ignore_errors=True)
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
            if device and self._living(device):
                found.append(device)
            elif device:
                found.append(replace(device, running=False, detail=processes.last_line(folder) or "it ended without a word"))
        return sorted(found, key=lambda device: _in_order(device.name))

    def _start(self, device: LocalDevice, clock_skew_seconds: float = 0.0) -> _Starting:
        folder = self._folder / device.name
        ports = self.world.ask("add", device.name, device.interface) if device.linked else None
        front, back = ports if isinstance(ports, list) else (0, 0)
        # All that gRPC dials in this process goes through the back door; nothing is excepted.
        environment = {"grpc_proxy": f"http://{device.interface}:{back}", "no_grpc_proxy": ""} if back else {}
        with disks.told(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            if not device.pid:
                _keep_identity_of(device, folder)
            if not device.insecure and not device.pid:
                (self._issue_gateway if device.hollow else self._issue)(folder, device.name)
            module = "sim_devices.hollow" if device.hollow else "sim_devices"
            process = processes.start(module, _arguments(device, folder, front, clock_skew_seconds), folder, environment)
        self._children[process.pid] = process
        try:
            started = psutil.Process(process.pid).create_time()
            device = replace(device, pid=process.pid, started=started)
            _write(folder / RECORD, device)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return _Starting(device, process, folder, front)

    def _ready(self, one: _Starting, deadline: float) -> LocalDevice:
        said = processes.ready_line(one.process, one.device.name, one.folder, deadline, START_SECONDS)
        address = said["address"]
        if one.front_port:
            self.world.ask("target", one.device.name, address)
            address = f"{one.device.interface}:{one.front_port}"
        device = replace(one.device, device_id=said["device_id"], address=address)
        _write(one.folder / RECORD, device)
        return device

    def _stop(self, devices: Sequence[LocalDevice]) -> None:
        """SIGTERM, then SIGKILL; and forget them."""
        running = [process for device in devices if (process := self._living(device))]
        processes.stop(running, STOP_SECONDS)
        for device in devices:
            for left in (RECORD, CONTROL):  # a killed one leaves its socket
                (self._folder / device.name / left).unlink(missing_ok=True)
            self.world.send(["remove", device.name])
            child = self._children.pop(device.pid, None)
            if child:
                child.wait()

    def _living(self, device: LocalDevice) -> psutil.Process | None:
        """A child of this object is known by being one: for a moment after its start the kernel shows no command line of it."""
        child = self._children.get(device.pid)
        if child and child.poll() is None:
            return psutil.Process(child.pid)
        return _process(device, self._folder / device.name)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if path.is_dir() and path.name[0] != ".") if self._folder.is_dir() else []

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with disks.told(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self._folder / ".lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@dataclass(frozen=True)
class _Starting:
    device: LocalDevice
    process: subprocess.Popen[bytes]
    folder: Path
    front_port: int  # of the world's door before it; 0: none


def _close(starting: Sequence[_Starting]) -> None:
    for one in starting:
        assert one.process.stdout is not None
        one.process.stdout.close()


def _keep_identity_of(device: LocalDevice, folder: Path) -> None:
    """An identity stands for one board: where another profile or memory takes the folder over, it gets an identity of its own.

    A profile of one's own is what its file says, not where it lies. Who held the keys cannot be known where the note of it is damaged.
    Blobs stay: they are what their digests say, whoever holds them.
    """
    board = {"profile": _figures_of(device), "memory_bytes": device.memory_bytes}
    path = folder / BOARD
    try:
        before = json.loads(path.read_text())
    except FileNotFoundError:
        before = board
    except ValueError:
        before = None
    if before != board:
        for key in folder.glob("*.pem"):
            key.unlink()
    path.write_text(json.dumps(board))


def _figures_of(device: LocalDevice) -> str:
    """A gateway has several profiles."""
    names = device.profile.split(",") if device.hollow else [device.profile]
    return ",".join(_figures(name) for name in names)


def _figures(profile: str) -> str:
    try:
        return digest_of(Path(profile).read_bytes()) if is_path(profile) else profile
    except OSError:  # the device will say so
        return profile


def _described(name: str, spec: DeviceSpec, interface: str, insecure: bool) -> LocalDevice:
    """As it will be recorded, without a process yet."""
    return LocalDevice(
        name,
        spec.profile,
        "" if spec.hollow else spec.pace,
        spec.memory_bytes,
        0,
        0.0,
        hollow=spec.hollow,
        ambient_celsius=spec.ambient_celsius,
        labels=spec.labels,
        linked=spec.linked and not spec.hollow,
        interface=interface,
        insecure=insecure,
        timing=spec.timing,
        dialect=spec.dialect,
    )


def _arguments(device: LocalDevice, folder: Path, front_port: int, clock_skew_seconds: float) -> list[str]:
    """Of its program. A gateway's takes several profiles, and neither labels nor links."""
    words = ["--state", str(folder), "--name", device.name, "--interface", device.interface]
    for profile in device.profile.split(",") if device.hollow else [device.profile]:
        words += ["--profile", str(Path(profile).absolute()) if is_path(profile) else profile]
    words += [] if device.memory_bytes is None else ["--memory", str(device.memory_bytes)]
    words += ["--insecure"] if device.insecure else []
    if device.hollow:
        return [*words, "--count", str(device.hollow)]
    words += ["--pace", device.pace, *(f"--{key}={value}" for key in ("timing", "dialect") if (value := getattr(device, key)))]
    words += ["--ambient", str(device.ambient_celsius)] if device.ambient_celsius is not None else []
    words += ["--announced-port", str(front_port)] if front_port else []
    words += [f"--clock-skew={clock_skew_seconds}"] if clock_skew_seconds else []
    return words + [word for key, value in device.labels.items() for word in ("--label", f"{key}={value}")]


def _process(device: LocalDevice, folder: Path) -> psutil.Process | None:
    return processes.living(device.pid, device.started, folder) if device.pid else None


def _names(prefix: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{prefix}-{number}"


def _in_order(name: str) -> tuple[str, int]:
    prefix, _, number = name.rpartition("-")
    return (prefix, int(number)) if number.isdecimal() else (name, 0)


def _read(path: Path) -> LocalDevice | None:
    try:
        return LocalDevice(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, device: LocalDevice) -> None:
    """Raises NoSpace, InvalidInput."""
    part = path.with_suffix(".part")
    with disks.told(path):
        try:
            part.write_text(json.dumps(asdict(device), indent=1))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
