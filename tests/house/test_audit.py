"""What `make audit` stands on finds what it should: an advisory that concerns a version, a wheel that a board needs."""

from __future__ import annotations

import doctest

import pytest

from tests.support import advisories
from tests.support.advisories import LOCKS, Advisory, findings, load, locked
from tests.support.board_wheels import ROOT, entries


def test_the_advisories_find_an_old_release() -> None:
    date, known = load()
    assert date >= "2024-10-10"
    old = {("cryptography", "41.0.5"), ("jinja2", "3.1.2"), ("certifi", "2022.12.6")}
    found = findings(old, known)
    assert {line.partition(":")[0] for line in found} == {"cryptography 41.0.5", "certifi 2022.12.6"} | (
        {"jinja2 3.1.2"} if any(one.package == "jinja2" and one.concerns("3.1.2") for one in known) else set()
    )
    assert "cryptography 41.0.5: PYSEC-2023-254 CVE-2023-49083 GHSA-jfhm-5ghh-2f97" in found


def test_nothing_that_is_locked_is_known_to_be_wrong() -> None:
    packages = set().union(*(locked(lock.read_text()) for lock in LOCKS))
    assert len(packages) > 60
    assert findings(packages, load()[1]) == []


@pytest.mark.parametrize(
    ("ranges", "versions", "concerned"),
    [
        ((("", "2"),), (), ["0.1", "1", "1.9"]),
        ((("1", ""),), (), ["1", "1.9", "2.0.5", "3"]),
        ((("1", "1.5"), ("2", "2.1")), (), ["1", "2.0.5"]),
        ((), ("3",), ["3"]),
    ],
)
def test_ranges(ranges: tuple[tuple[str, str], ...], versions: tuple[str, ...], concerned: list[str]) -> None:
    advisory = Advisory("X", "one", ranges, versions)
    assert [version for version in ("0.1", "1", "1.9", "2.0.5", "3") if advisory.concerns(version)] == concerned


def test_the_example() -> None:
    assert doctest.testmod(advisories).failed == 0


def test_entries_of_a_lock_file_for_a_board() -> None:
    lock = (
        "one==1.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\n    # via x\n"
        "two==2.0 ; platform_machine == 'x86_64' \\\n    --hash=sha256:02\n"
        "three==3.0 ; python_full_version < '3.12' \\\n    --hash=sha256:03\nsetuptools==80 \\\n    --hash=sha256:04\n"
    )
    assert entries(lock, "3.11", "aarch64").keys() == {"one", "three"}
    assert entries(lock, "3.12", "x86_64") == {
        "one": "one==1.0 --hash=sha256:00 --hash=sha256:01",
        "two": "two==2.0 ; platform_machine == 'x86_64' --hash=sha256:02",
    }
    real = entries((ROOT / "requirements.lock").read_text(), "3.13", "aarch64")
    assert {"onnxruntime", "grpcio", "numpy", "cryptography"} <= real.keys()
