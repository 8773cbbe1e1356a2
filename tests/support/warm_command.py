"""A process that has loaded the command and forks for each call of it: as real a process, without half a second of imports."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, NoReturn, TypeAlias

from fleet.cli.main import ENTRIES, Command, run

ROOT = Path(__file__).resolve().parents[2]
_STREAMS = 3  # standard input, output and error of a call, which travel as open files
_LONGEST = 1 << 20  # bytes of a call: its arguments and environment

_Call: TypeAlias = tuple[list[str], dict[str, str], float]  # arguments, environment, seconds


class WarmCommand:
    """`glmfleet ARGUMENTS` as children of one process that has imported all commands. Of the caller's own process nothing is copied."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        command = [sys.executable, "-m", "tests.support.warm_command", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)

    def call(self, arguments: Sequence[str], environment: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Nothing to read, its outputs whole; SIGALRM ends it after `timeout` seconds. Threads may call at once."""
        ours, theirs = socket.socketpair()
        with ours, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            with theirs, open(os.devnull) as nothing:
                call = json.dumps([list(arguments), dict(environment), timeout]).encode()
                socket.send_fds(self._socket, [call], [nothing.fileno(), out.fileno(), error.fileno(), theirs.fileno()])
            code = ours.recv(16)
            assert code, "the process that forks is gone"
            texts = [_text_of(file) for file in (out, error)]
        return subprocess.CompletedProcess(["glmfleet", *arguments], int(code), *texts)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)


@cache
def warm_command() -> WarmCommand:
    """One for each process of the tests."""
    command = WarmCommand()
    atexit.register(command.close)
    return command


def _text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n").replace("\r", "\n")  # as subprocess reads text


def _load(entries: Sequence[Command]) -> None:
    for entry in entries:
        importlib.import_module(entry.module)
        _load(entry.below)


def _serve(calls: socket.socket) -> None:
    _load(ENTRIES)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for a call
    while True:
        data, descriptors, _, _ = socket.recv_fds(calls, _LONGEST, _STREAMS + 1)
        if not data:
            return
        if os.fork() == 0:
            calls.close()
            _wait_for(json.loads(data), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _wait_for(call: _Call, descriptors: Sequence[int]) -> NoReturn:
    """Carries out a call in a child of this process, and tells its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, answer = descriptors
    child = os.fork()
    if child == 0:
        os.close(answer)
        _carry_out(call, streams)
    for stream in streams:
        os.close(stream)
    _, status = os.waitpid(child, 0)
    with socket.socket(fileno=answer) as told:
        told.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _carry_out(call: _Call, streams: Sequence[int]) -> NoReturn:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    arguments, environment, seconds = call
    signal.setitimer(signal.ITIMER_REAL, seconds)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["glmfleet", *arguments]
    code = 1
    try:
        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        _serve(listening)
