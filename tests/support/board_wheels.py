"""`python -m tests.support.board_wheels [MACHINE]`: does all that is installed come as a wheel for it, so that nothing is compiled?

Asks the package index that pip is set up with for each version of requirements.lock, and checks what comes by its hash.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.markers import Marker, default_environment

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
GLIBC = 36  # Debian 12 and Raspberry Pi OS have 2.36, Ubuntu 24.04 has 2.39
NOT_NEEDED = frozenset({"setuptools"})  # builds the project, is not installed with it


def entries(lock: str, python: str, machine: str) -> dict[str, str]:
    """The entries of a lock file, hashes included, that hold for this version of Python on this kind of machine; by package."""
    environment = {
        **{key: str(value) for key, value in default_environment().items()},
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_version": f"{python}.0",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    found = {}
    for entry in re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", lock).replace("\\\n", " ")):
        if match := re.match(r"([\w.-]+)==\S+(?:\s*;\s*(.*?))?\s+--hash", " ".join(entry.split())):
            name, marker = match[1], match[2]
            if name not in NOT_NEEDED and (marker is None or Marker(marker).evaluate(environment)):
                found[name] = " ".join(entry.split())
    return found


def missing(entry: str, python: str, machine: str) -> str:
    """Why there is no wheel for it; "" when there is one."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 16, -1)] + [f"--platform=manylinux2014_{machine}"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "one.lock").write_text(entry + "\n")
        command = [sys.executable, "-P", "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        command += [*platforms, f"--python-version={python}", "--implementation=cp", "--require-hashes", f"--dest={folder}"]
        done = subprocess.run([*command, "-r", f"{folder}/one.lock"], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [f"pip ended with {done.returncode}"]
    return lines[-1][:200] if done.returncode else ""


def main() -> None:
    machine = sys.argv[1] if len(sys.argv) > 1 else "aarch64"
    lock = (ROOT / "requirements.lock").read_text()
    wanted = [(name, entry, python) for python in PYTHONS for name, entry in entries(lock, python, machine).items()]
    with ThreadPoolExecutor(4) as pool:
        faults = list(pool.map(lambda one: missing(one[1], one[2], machine), wanted))
    lacking = [(name, python, fault) for (name, _, python), fault in zip(wanted, faults, strict=True) if fault]
    for name, python, fault in lacking:
        sys.stdout.write(f"{name} for Python {python}: {fault}\n")
    sys.stdout.write(f"{len(wanted) - len(lacking)} of {len(wanted)} have a wheel for {machine} (Python {', '.join(PYTHONS)})\n")
    sys.exit(1 if lacking else 0)


if __name__ == "__main__":
    main()
