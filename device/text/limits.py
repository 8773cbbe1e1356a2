"""What a process may take in which a stranger's file is worked on. It limits itself, before it reads any of it."""

from __future__ import annotations

import resource


def limit_memory(more_bytes: int) -> None:
    """Beyond what the interpreter takes now; no core file."""
    with open("/proc/self/statm") as file:
        most = _allowed(resource.RLIMIT_AS, int(file.read().split()[0]) * resource.getpagesize() + more_bytes)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_time(seconds: int) -> None:
    """Of the processor, from now on: the parent may be gone, and nobody kills us."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = _allowed(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _allowed(limit: int, wanted: int) -> int:
    """No more than who started us allows."""
    _, hard = resource.getrlimit(limit)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
