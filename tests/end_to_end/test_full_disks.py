"""Simulated devices on a disk that has no room for them, or takes nothing: one line, and nothing is left running."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.disks import fill, needs_mounts, read_only, small_disk
from tests.support.processes import Glmfleet, processes_naming, wait_for

PAGE = 4096
pytestmark = needs_mounts


def assert_told(glmfleet: Glmfleet, why: str, *words: object) -> None:
    done = glmfleet("sim", *words)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert why in first
    assert second.startswith("  ")
    wait_for(lambda: processes_naming(str(glmfleet.home)) == [], 10)


@pytest.mark.parametrize("pages", [1, 6, *(pytest.param(pages, marks=pytest.mark.long) for pages in (3, 5, 7, 8))])
def test_a_disk_that_is_full_at_some_file(tmp_path: Path, pages: int) -> None:
    """In turn: the identity's folder, the authority, the certificate, the device's record; with links every second time."""
    with small_disk(tmp_path, pages * PAGE) as disk:
        assert_told(Glmfleet(disk / "home"), "the disk is full", "up", "--devices", 1, *(["--links"] if pages % 2 else []))


def test_a_disk_that_became_full(tmp_path: Path) -> None:
    with small_disk(tmp_path, 1 << 20) as disk:
        glmfleet = Glmfleet(disk / "home")
        assert glmfleet("sim", "up", "--devices", 1).returncode == 0
        fill(disk / "filling")
        assert glmfleet("sim", "down").returncode == 0
        assert_told(glmfleet, "the disk is full", "up", "--devices", 2)
        (disk / "filling").unlink()
        assert glmfleet("sim", "up", "--devices", 1).returncode == 0
        assert glmfleet("sim", "down").returncode == 0


@pytest.mark.long
def test_a_home_that_is_read_only(tmp_path: Path) -> None:
    with small_disk(tmp_path, 1 << 20) as disk:
        glmfleet = Glmfleet(disk / "home")
        assert glmfleet("sim", "up", "--devices", 1).returncode == 0
        assert glmfleet("sim", "down").returncode == 0
        read_only(disk)
        assert_told(glmfleet, "the file system is read-only", "up", "--devices", 1)
