"""A contender in a process of its own: it is asked for one measurement at a time, and sleeps meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from protos.errors import Internal, InvalidInput

Figures = dict[str, float]
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ask:
    """`decode`: prefill every prompt, then `tokens` greedy steps over all of them at once. `prefill`: the first prompt, to its first
    token. `beside`: to the first token of the last prompt, sent while the first is prefilled (the whole path only)."""

    what: Literal["decode", "prefill", "beside"]
    prompts: tuple[tuple[int, ...], ...]
    tokens: int = 1
    deployment: str = ""  # of the whole path: which one


class Worker:
    """`python -m MODULE ARGUMENTS`, which calls `answer`. A context manager; the process ends with it."""

    def __init__(self, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        self._name = module
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def __enter__(self) -> Worker:
        """Waits until it has loaded. Raises Internal when it ends instead (its own words are on stderr)."""
        self._read()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, ask: Ask) -> Figures:
        """Raises Internal when the process ends."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(asdict(ask)) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Figures:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise Internal(f"{self._name} ended with exit code {self._process.wait()}", advice="its last words are above")
        figures: Figures = json.loads(line)
        return figures


def answer(measure: Callable[[Ask], Figures], lines: Sequence[str] | None = None) -> None:
    """The process's side: says that it is ready, then measures what each line of stdin asks, until it is closed."""
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in lines if lines is not None else sys.stdin:
        plain = json.loads(line)
        ask = Ask(**{**plain, "prompts": tuple(tuple(prompt) for prompt in plain["prompts"])})
        print(json.dumps(measure(ask)), flush=True)


def unknown(ask: Ask) -> InvalidInput:
    return InvalidInput(f"this contender cannot measure {ask.what!r}")
