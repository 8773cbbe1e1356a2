from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from protos.errors import NoSpace
from quantize.files import StagedFile, no_space_as_ours, sweep_staged


def test_a_committed_file_is_whole_and_alone(tmp_path: Path) -> None:
    with StagedFile(tmp_path) as staged:
        staged.write(b"abc")
        assert not (tmp_path / "name").exists()
        staged.commit(tmp_path / "name")
    assert (tmp_path / "name").read_bytes() == b"abc"
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_without_commit_nothing_stays(tmp_path: Path, error: type[BaseException]) -> None:
    def break_off() -> None:
        with StagedFile(tmp_path) as staged:
            staged.write(b"abc")
            raise error

    with pytest.raises(error):
        break_off()
    assert not list(tmp_path.iterdir())


def test_a_dead_writers_file_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    program = f"""
import os, pathlib
from quantize.files import StagedFile
StagedFile(pathlib.Path({str(tmp_path)!r})).__enter__().write(b"abc")
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    (dead,) = tmp_path.iterdir()
    with StagedFile(tmp_path) as staged:
        sweep_staged(tmp_path)
        assert not dead.exists()
        assert staged.path.exists()


def test_only_a_full_disk_is_no_space(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="is full"), no_space_as_ours(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), no_space_as_ours(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
