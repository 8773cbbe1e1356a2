"""Stages' graphs saved with their weights in the kernels' own layout, to be mapped at the next start."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort
import psutil

from device.engine.prepack import GRAPH_SUFFIX, INDEX, SAVED_SUFFIX, index_lines
from device.stage_spec import StageSpec
from device.tasks import in_thread
from protos.sizes import bytes_text

# Of entries that no loaded stage uses; the least recently used go first.
UNUSED_LIMIT_BYTES = 8 << 30
# Smaller stages load in about a second without.
LEAST_WEIGHT_BYTES = 256 << 20
# onnxruntime keeps both forms of a weight: at a load it packs the raw one again, one matrix at a time, and takes the saved one in its
# place when they agree. And as much shall stay free for the next version's blobs.
DISK_FACTOR = 3
# The saving process holds all packed weights, and a little more.
MEMORY_FACTOR = 1.25

_FORMAT = 2  # 1 was saved of graphs that nobody had looked at
_STAGE, _HEAD = "stage", "head"
_PARTIAL = "incoming-"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepacked:
    """Saved graphs, each with its weights beside it."""

    stage: Path
    head: Path | None


class PrepackedStages:
    """Entries `root/<key>/`: never trusted unread, never the reason that a load fails. One process per `root`.

    The key is made of all that decides on the content: both graphs, the blobs' digests, onnxruntime's version, the CPU's kind. An
    entry's files carry SHA-256 digests that `find` compares, so a write that a power cut left half done is found like any other damage
    (and nothing waits for a disk to flush gigabytes). `find`, `drop` and `retain` block.
    """

    def __init__(
        self,
        root: Path,
        free_bytes: Callable[[], int],
        *,
        environment: str | None = None,
        unused_limit_bytes: int = UNUSED_LIMIT_BYTES,
        least_weight_bytes: int = LEAST_WEIGHT_BYTES,
        memory_bytes: Callable[[], int] = lambda: int(psutil.virtual_memory().available),
    ) -> None:
        """`free_bytes`: of disk; `environment`: which onnxruntime and CPU this is (default: it is found out)."""
        self._root = root
        self._free_bytes = free_bytes
        self._memory_bytes = memory_bytes
        self._environment = environment or f"onnxruntime {ort.__version__}\n{cpu_identity()}"
        self._unused_limit_bytes = unused_limit_bytes
        self._least_weight_bytes = least_weight_bytes
        self._saving = asyncio.Lock()
        for partial in root.glob(f"{_PARTIAL}*"):
            _remove(partial)

    def find(self, spec: StageSpec, threads: int) -> Prepacked | None:
        """The stage's entry, every byte verified; None when there is none, or it is damaged: then it is dropped."""
        folder = self._folder(spec)
        if not folder.is_dir():
            return None
        try:
            if (folder / INDEX).read_text().splitlines() != index_lines(folder, threads):
                raise ValueError("their files changed")
            os.utime(folder)  # the stamp by which entries grow old
        except (OSError, ValueError) as error:
            self.drop(spec, error)
            return None
        head = folder / f"{_HEAD}{SAVED_SUFFIX}" if spec.is_head else None
        return Prepacked(folder / f"{_STAGE}{SAVED_SUFFIX}", head)

    def drop(self, spec: StageSpec, why: Exception) -> None:
        _log.warning("prepacked weights of %s dropped, loading without: %s", spec.pipeline, " ".join(str(why).split())[:200])
        _remove(self._folder(spec))

    async def save(self, spec: StageSpec, blob_folder: Path, in_use: Callable[[], Collection[StageSpec]]) -> bool:
        """Make the stage's entry, in a process of its own that gives way to others; whether there is one now.

        Entries of stages that are not `in_use` make way, the least recently used first. One at a time; when cancelled nothing is left.
        """
        partial = self._root / f"{_PARTIAL}{secrets.token_hex(4)}"  # not the one that a killed agent's child may still write to
        async with self._saving:
            try:
                if await in_thread(self._begin, spec, blob_folder, in_use(), partial):
                    await _run_saver(partial, blob_folder)
                    await in_thread(partial.rename, self._folder(spec))
            except OSError as error:
                _log.warning("weights of %s are not kept prepacked: %s", spec.pipeline, error)
            finally:
                await in_thread(_remove, partial)
        return self._folder(spec).is_dir()

    def retain(self, in_use: Collection[StageSpec]) -> int:
        """Drop every entry of a stage that is not `in_use`; the bytes freed."""
        return self._drop_until(lambda left_bytes: False, in_use)

    def unused_bytes(self, in_use: Collection[StageSpec]) -> int:
        """What `retain` would free."""
        return sum(self._unused(in_use).values())

    def _begin(self, spec: StageSpec, blob_folder: Path, in_use: Collection[StageSpec], partial: Path) -> bool:
        """Lay out the graphs to save; False when it is not worth it. Raises OSError when there is no room."""
        weight_bytes = sum((blob_folder / digest).stat().st_size for digest in spec.blobs)
        if weight_bytes < self._least_weight_bytes or self._folder(spec).is_dir():
            return False
        disk_bytes, memory_bytes = DISK_FACTOR * weight_bytes, int(MEMORY_FACTOR * weight_bytes)
        self._drop_until(lambda left: left <= self._unused_limit_bytes and self._free_bytes() >= disk_bytes, in_use)
        for what, needed, free in (("disk", disk_bytes, self._free_bytes()), ("memory", memory_bytes, self._memory_bytes())):
            if free < needed:
                raise OSError(f"{bytes_text(needed)} of {what} are needed for it, {bytes_text(free)} are free")
        partial.mkdir(parents=True)
        for name, graph in _graphs(spec):
            (partial / f"{name}{GRAPH_SUFFIX}").write_bytes(graph)
        return True

    def _drop_until(self, enough: Callable[[int], bool], in_use: Collection[StageSpec]) -> int:
        """Drop unused entries until `enough(bytes that the others take)`; returns the bytes freed."""
        unused = self._unused(in_use)
        left_bytes = total_bytes = sum(unused.values())
        for folder in sorted(unused, key=lambda folder: folder.stat().st_mtime_ns):
            if enough(left_bytes):
                break
            _remove(folder)
            left_bytes -= unused[folder]
        return total_bytes - left_bytes

    def _unused(self, in_use: Collection[StageSpec]) -> dict[Path, int]:
        kept = {self._folder(spec) for spec in in_use}
        folders = [path for path in self._root.glob("*") if path.is_dir() and not path.name.startswith(_PARTIAL)]
        return {folder: sum(file.stat().st_size for file in folder.iterdir()) for folder in folders if folder not in kept}

    def _folder(self, spec: StageSpec) -> Path:
        key = hashlib.sha256(f"{_FORMAT}\n{self._environment}\n{' '.join(spec.blobs)}\n".encode())
        for _, graph in _graphs(spec):
            key.update(hashlib.sha256(graph).digest())
        return self._root / key.hexdigest()


def cpu_identity(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What decides which kernels run here: model and instruction sets of all kinds of cores."""
    telling = {"model name", "flags", "CPU implementer", "CPU part", "CPU variant", "Features", "isa", "uarch"}
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    found = {" ".join(line.split()) for line in lines if line.partition(":")[0].strip() in telling}
    return "\n".join(sorted(found)) or f"{platform.machine()} {platform.processor()}"


async def _run_saver(folder: Path, blob_folder: Path) -> None:
    """Raises OSError when it fails; kills it when cancelled."""
    # As this interpreter was started: -P keeps the working folder out of the search for modules.
    flags = ["-P"] if sys.flags.safe_path else []
    saver = await asyncio.create_subprocess_exec(
        sys.executable,
        *flags,
        "-m",
        "device.engine.prepack",
        str(folder),
        str(blob_folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await saver.communicate()
    except asyncio.CancelledError:
        saver.kill()
        await saver.wait()
        raise
    if saver.returncode:
        lines = said.decode(errors="replace").split("\n")
        raise OSError(f"the saving process ended with {saver.returncode}: {' '.join(lines).strip()[-200:]}")


def _graphs(spec: StageSpec) -> Iterator[tuple[str, bytes]]:
    yield _STAGE, spec.graph
    if spec.is_head:
        yield _HEAD, spec.head_graph


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
