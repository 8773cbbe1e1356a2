"""Which memory is moved into huge pages, and that what lies there stays what it was."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from device.engine import huge_pages
from device.engine.huge_pages import Mapping, mappings, use_huge_pages

MIB = 1 << 20
PAGE = 2 * MIB
SMAPS = """\
55e0c1a00000-55e0c2200000 rw-p 00000000 00:00 0                          [heap]
Size:               8192 kB
Rss:                8000 kB
AnonHugePages:         0 kB
VmFlags: rd wr mr mw me ac
7f8970fc2000-7f89718c2000 rw-p 0073c200 fe:00 4711                       /var/lib/stage.weights
Size:               9216 kB
Rss:                9216 kB
VmFlags: rd wr mr mw me
7f8980000000-7f8981000000 rw-p 00000000 00:00 0
Size:              16384 kB
Rss:               16384 kB
VmFlags: rd wr mr mw me ac nh
7f8990000000-7f8990021000 ---p 00000000 00:00 0
Rss:                   0 kB
7ffd5e000000-7ffd5e900000 rw-p 00000000 00:00 0                          [stack]
Rss:                9216 kB
VmFlags: rd wr mr mw me gd ac
""".splitlines()


def test_mappings_are_read_as_the_kernel_tells_them() -> None:
    heap, file, cache, guard, stack = mappings(SMAPS)
    assert heap == Mapping(0x55E0C1A00000, 0x55E0C2200000, anonymous=True, resident_bytes=8000 << 10, heap=True)
    assert [mapping.anonymous for mapping in (file, cache, guard, stack)] == [False, True, False, False]
    assert [mapping.small for mapping in (heap, file, cache, guard, stack)] == [False, False, True, False, False]


def test_only_whole_pages_within_a_mapping_are_moved() -> None:
    mapping = Mapping(PAGE - 4096, 5 * PAGE + 4096, anonymous=True, resident_bytes=4 * PAGE)
    assert list(mapping.whole_pages(PAGE)) == [PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE]


def test_a_heap_that_was_trimmed_is_moved_as_any_other() -> None:
    trimmed = Mapping(0, 8 * MIB, anonymous=True, resident_bytes=8 * MIB, small=True, heap=True)
    assert list(trimmed.whole_pages(PAGE)) == [0, PAGE, 2 * PAGE, 3 * PAGE]


@pytest.mark.parametrize(
    "mapping",
    [
        Mapping(0, 8 * MIB, anonymous=False, resident_bytes=8 * MIB),
        Mapping(0, 8 * MIB, anonymous=True, resident_bytes=8 * MIB, small=True),
        Mapping(0, 8 * MIB, anonymous=True, resident_bytes=4 * MIB),
        Mapping(0, 2 * MIB, anonymous=True, resident_bytes=2 * MIB),
    ],
    ids=["a file", "the cache, which asked for small ones", "half of it untouched", "little"],
)
def test_what_is_left_alone(mapping: Mapping) -> None:
    assert not mapping.whole_pages(PAGE)


@pytest.mark.parametrize(
    ("setting", "page_bytes"),
    [("always madvise [never]", PAGE), ("always [madvise] never", 512 * MIB), (None, 0)],
    ids=["not wanted", "far too large", "not there"],
)
def test_nothing_is_asked_for_where_there_are_none(
    setting: str | None, page_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting:
        (tmp_path / "enabled").write_text(setting)
        (tmp_path / "hpage_pmd_size").write_text(str(page_bytes))
    monkeypatch.setattr(huge_pages, "_SETTINGS", tmp_path)
    monkeypatch.setattr(huge_pages, "_MAPPINGS", tmp_path / "not asked")
    assert use_huge_pages() == 0


@pytest.mark.parametrize(("mib", "asked"), [(64, 1), (0, 0)])
def test_only_a_block_that_fills_memory_is_worth_the_asking(mib: int, asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(huge_pages, "use_huge_pages", lambda: calls.append(1))
    with huge_pages.huge_pages():
        filled = mmap.mmap(-1, max(1, mib * MIB))
        filled.write(bytes(mib * MIB))
    assert len(calls) == asked


def test_a_system_that_tells_nothing_of_its_memory_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "enabled").write_text("always [madvise] never")
    (tmp_path / "hpage_pmd_size").write_text(str(PAGE))
    monkeypatch.setattr(huge_pages, "_SETTINGS", tmp_path)
    monkeypatch.setattr(huge_pages, "_MAPPINGS", tmp_path / "missing")
    assert use_huge_pages() == 0


def test_memory_is_moved_with_what_it_holds() -> None:
    memory = mmap.mmap(-1, 32 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    values = np.frombuffer(memory, np.uint32)
    values[:] = np.arange(values.size)
    if not use_huge_pages():
        pytest.skip("this system gives no huge pages at once")
    assert np.array_equal(values, np.arange(values.size, dtype=np.uint32))
    middle = values.ctypes.data + 16 * MIB
    held = False
    for line in huge_pages._MAPPINGS.read_text().splitlines():
        if header := huge_pages._HEADER.fullmatch(line):
            held = int(header[1], 16) <= middle < int(header[2], 16)
        elif held and line.startswith("AnonHugePages:"):
            assert int(line.split()[1]) >= 16 << 10
