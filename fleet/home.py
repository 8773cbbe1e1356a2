"""The state folder of one fleet on this machine: its layout, its locks, and where its coordinator answers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from fleet.text import is_text
from protos import disks, modes
from protos.errors import Conflict, InvalidInput

VARIABLE = "GLMFLEET_HOME"
_ADVICE = f"choose another folder with --home or {VARIABLE}"


@dataclass(frozen=True)
class RunningCoordinator:
    """Where the running coordinator of a home answers, and its SQLite file where that is not the home's own."""

    url: str
    pid: int
    store: Path | None = None
    reach: tuple[str, ...] = ()  # "host:port" by which other machines reach it


@dataclass(frozen=True)
class Home:
    """Paths below the state folder. Only the folder itself is made here; each part makes its own when it needs it."""

    path: Path

    @classmethod
    def at(cls, path: Path | None = None) -> Home:
        """The home at `path`, else at $GLMFLEET_HOME, else in the user's data directory; as it is, whether it can be used or not.

        Raises InvalidInput when nobody says where it is, or its path is not text.
        """
        folder = _absolute(path or _usual())
        if not is_text(str(folder)):
            raise InvalidInput(f"the home {str(folder)!a} is not text in UTF-8", advice=_ADVICE)
        return cls(folder)

    @classmethod
    def open(cls, path: Path | None = None) -> Home:
        """As `at`; made with mode 0700 when missing. Raises InvalidInput when it is no folder or cannot be written to, Denied when others
        can write to it."""
        home = cls.at(path)
        folder = home.path
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except FileExistsError as error:
            raise InvalidInput(f"the home {folder} is not a folder", advice=_ADVICE) from error
        except OSError as error:
            raise InvalidInput(f"the home {folder} cannot be written to: {disks.why(error)}", advice=_ADVICE) from error
        modes.check_folder(folder)
        return home

    @property
    def option(self) -> str:
        """What a command line needs to mean this home: "" where it is found without."""
        with contextlib.suppress(InvalidInput):
            if self.path == _absolute(_usual()):
                return ""
        return f" --home {shlex.quote(str(self.path))}"

    @property
    def authority(self) -> Path:
        """The fleet authority: its key and certificate."""
        return self.path / "authority"

    @property
    def publisher(self) -> Path:
        """The publisher's key, which vouches for models."""
        return self.path / "publisher"

    @property
    def coordinator(self) -> Path:
        """The coordinator's own identity and state."""
        return self.path / "coordinator"

    @property
    def state_file(self) -> Path:
        """The coordinator's SQLite store."""
        return self.coordinator / "state.sqlite"

    @property
    def audit(self) -> Path:
        """The audit log of the fleet."""
        return self.coordinator / "audit"

    @property
    def login(self) -> Path:
        """Which coordinator on another machine the commands of this home ask, and how it is known."""
        return self.path / "login.json"

    @property
    def coordinator_file(self) -> Path:
        """Written by `serve` while it runs."""
        return self.path / "coordinator.json"

    @property
    def artifacts(self) -> Path:
        """Models and their blobs."""
        return self.path / "artifacts"

    @property
    def downloads(self) -> Path:
        """Checkpoints as they were fetched."""
        return self.path / "downloads"

    @property
    def sim(self) -> Path:
        """One folder per simulated device of this machine."""
        return self.path / "sim"

    @property
    def device(self) -> Path:
        """The state of a real agent on this machine."""
        return self.path / "device"

    def locked(self, name: str) -> AbstractContextManager[None]:
        """`locked` on the home's lock of this name: for whoever comes first to make something."""
        return locked(self.path / f"{name}.lock")

    def check_not_served(self) -> None:
        """Raises Conflict when a coordinator of this home runs."""
        if other := self.running_coordinator():
            where = f" at {other.url} (process {other.pid})"
            raise Conflict(f"a coordinator of this home already runs{where}", advice="use it, stop it, or choose another --home")

    @contextmanager
    def serving(self, url: str, store: Path | None = None, reach: Sequence[str] = ()) -> Iterator[None]:
        """While inside, this process is the home's one coordinator and `running_coordinator` finds it at `url`; `store`, `reach` as there.

        The kernel drops the lock with the process, so a killed coordinator is never taken for a living one.
        Raises Conflict when another one runs.
        """
        try:
            descriptor = self._take_coordinator_lock()
        except BlockingIOError as error:
            self.check_not_served()
            raise Conflict("a coordinator of this home is starting", advice="use it, stop it, or choose another --home") from error
        try:
            plain = {"url": url, "pid": os.getpid(), "reach": list(reach)} | ({"store": str(store)} if store else {})
            write_private(self.coordinator_file, json.dumps(plain).encode())
            try:
                yield
            finally:
                self.coordinator_file.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def running_coordinator(self) -> RunningCoordinator | None:
        """The coordinator that serves this home now, or None. Raises InvalidInput for a home that this user may not read."""
        try:
            descriptor = os.open(self._coordinator_lock, os.O_RDONLY | os.O_CLOEXEC)  # also where nothing can be written
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidInput(f"cannot read {self._coordinator_lock}: {disks.why(error)}", advice="run as the user who owns it") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None  # nobody holds it
        except BlockingIOError:
            return _read_coordinator(self.coordinator_file)
        finally:
            os.close(descriptor)

    @property
    def _coordinator_lock(self) -> Path:
        return self.path / "coordinator.lock"

    def _take_coordinator_lock(self) -> int:
        """Raises BlockingIOError when another coordinator holds it, and not merely a passing look of `running_coordinator`."""
        descriptor = _open_lock(self._coordinator_lock)
        try:
            for _ in range(9):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return descriptor
                except BlockingIOError:
                    time.sleep(0.005)  # a look takes microseconds
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        return descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A context that one holder at a time is in, over processes and threads; others wait (blocking: keep it short).

    The lock file stays: removing it would let a waiter and a newcomer hold two different files of one name.
    Raises NoSpace, InvalidInput when it cannot be made.
    """
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, data: bytes) -> None:
    """Replace the file at once by one with mode 0600: readers see the old bytes or the new ones. Raises NoSpace, InvalidInput."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise disks.refusal(path, error, _ADVICE) from error


def create_private(path: Path, data: bytes) -> None:
    """As `write_private`, unless there is a file of that name: then that one stays, whoever made it meanwhile."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as made:
            write_private(Path(made) / path.name, data)
            with contextlib.suppress(FileExistsError):
                os.link(Path(made) / path.name, path)  # unlike a rename it takes no other's place
    except OSError as error:
        raise disks.refusal(path, error, _ADVICE) from error


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise disks.refusal(path, error, _ADVICE) from error


def _read_coordinator(path: Path) -> RunningCoordinator | None:
    """What `serve` wrote; None in the moment between taking the lock and writing."""
    try:
        plain = json.loads(path.read_bytes())
        store = Path(plain["store"]) if "store" in plain else None
        return RunningCoordinator(str(plain["url"]), int(plain["pid"]), store, tuple(map(str, plain.get("reach", ()))))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _usual() -> Path:
    """Where the home is when nobody says another. Raises InvalidInput for a user without a home folder, as in a container."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    with contextlib.suppress(RuntimeError):  # of some versions of the library; others leave the "~" in
        usual = Path(platformdirs.user_data_dir("glmfleet", appauthor=False))
        if usual.parts[0] != "~":
            return usual
    raise InvalidInput("this user has no home folder, so nobody says where the state goes", advice=f"say it with --home or {VARIABLE}")


def _absolute(path: Path) -> Path:
    """Raises InvalidInput for "~NAME/…" of a user whom nobody knows."""
    try:
        return Path(os.path.abspath(path.expanduser()))
    except RuntimeError as error:
        raise InvalidInput(f"nobody says where the home folder {path.parts[0]} is", advice=_ADVICE) from error
