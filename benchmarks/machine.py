"""What the figures were measured on, and how fast it reads memory."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil

_PACKAGES = ("onnxruntime", "grpcio", "numpy", "llama-cpp-python")
_BYTES_PER_THREAD = 256 << 20  # far beyond any cache
_TRIES = 5


@dataclass(frozen=True)
class Machine:
    cpu: str
    cores: int
    memory_bytes: int
    read_bytes_per_second: float  # all threads together, the best of some tries
    threads: int
    system: str
    python: str
    packages: dict[str, str]


def describe(threads: int) -> Machine:
    """Reads memory with `threads` threads for about a second."""
    return Machine(
        cpu=_cpu(),
        cores=psutil.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
        read_bytes_per_second=read_bandwidth(threads),
        threads=threads,
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        python=platform.python_version(),
        packages={name: found for name in _PACKAGES if (found := _version(name))},
    )


def read_bandwidth(threads: int, bytes_per_thread: int = _BYTES_PER_THREAD, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes per second that `threads` threads read together from memory no cache holds: numpy's `max`, which computes next to nothing."""
    arrays = [np.ones(bytes_per_thread, np.int8) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_TRIES):
            start = clock()
            list(pool.map(np.max, arrays))
            best = max(best, threads * bytes_per_thread / (clock() - start))
    return best


def _cpu() -> str:
    """The model and what matters of its instructions; from Linux's cpuinfo, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = set(fields.get("flags", "").split())
    shown = [flag for flag in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16") if flag in flags]
    family = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields.get('model name', platform.machine())} ({family}; {', '.join(shown)})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
