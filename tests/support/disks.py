"""Small file systems of their own for tests, to be filled or made read-only: root's permission bits stop nothing."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@functools.cache
def _can_mount() -> bool:
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode == 0
        if mounted:
            subprocess.run(["umount", folder], check=True)
    return mounted


needs_mounts = pytest.mark.skipif(not _can_mount(), reason="a file system of its own needs root, and the right to mount")


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of this size in a new folder below."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def read_only(disk: Path, yes: bool = True) -> None:
    subprocess.run(["mount", "-o", f"remount,{'ro' if yes else 'rw'}", disk], check=True)


@contextlib.contextmanager
def read_only_view(disk: Path, at: Path) -> Iterator[Path]:
    """The same files at another place, where nothing can be written, whoever has them open for writing."""
    at.mkdir()
    subprocess.run(["mount", "--bind", disk, at], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", at], check=True)
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def fill(path: Path) -> None:
    """With a file, to the last byte."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
