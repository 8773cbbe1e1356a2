"""A program's control socket: words in, JSON out, a line each, for its owner only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from protos.errors import Internal, TimedOut, Unavailable, by_name
from protos.rpc_errors import as_fleet_error

CONTROL = "control"  # the socket's name in the program's folder
ANSWER_SECONDS = 5.0
_LONGEST_BYTES = 1 << 20

Handle = Callable[[Sequence[str]], Awaitable[object]]
_log = logging.getLogger(__name__)


@asynccontextmanager
async def served(folder: Path, handle: Handle) -> AsyncIterator[None]:
    """While inside, `handle` answers on the socket in `folder`, whose mode keeps others out. Its FleetErrors go to who asked."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.CancelledError):  # ValueError: a line too long
            while line := await reader.readline():
                writer.write(json.dumps(await _answer(handle, line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    path = folder / CONTROL
    path.unlink(missing_ok=True)  # of a process that was killed: the folder belongs to one at a time
    before = os.umask(0o177)
    try:
        with _short(folder) as name, socket.socket(socket.AF_UNIX) as bound:
            bound.bind(name)
            server = await asyncio.start_unix_server(accepted, sock=bound.dup(), limit=_LONGEST_BYTES)
    finally:
        os.umask(before)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


def ask(folder: Path, words: Sequence[str], timeout_seconds: float = ANSWER_SECONDS) -> object:
    """What the program in `folder` answers; blocks. Raises its FleetError, Unavailable when it is not there, TimedOut."""
    try:
        with socket.socket(socket.AF_UNIX) as stream, _short(folder) as name:
            stream.settimeout(timeout_seconds)
            stream.connect(name)
            stream.sendall(json.dumps(list(words)).encode() + b"\n")
            with stream.makefile("rb") as lines:
                reply = json.loads(lines.readline())
    except TimeoutError as error:
        raise TimedOut(f"{folder.name} did not answer within {timeout_seconds:g} s") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"{folder.name} cannot be reached") from error
    if "error" in reply:
        failure = by_name(reply["error"], reply["detail"])
        failure.advice = reply["advice"]
        raise failure
    answer: object = reply["answer"]
    return answer


async def _answer(handle: Handle, line: bytes) -> dict[str, object]:
    try:
        words = json.loads(line)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise Internal("not a list of words")
        return {"answer": await handle(words)}
    except Exception as error:
        told = as_fleet_error(error)
        if told is not error:
            _log.error("a defect, while answering on the control socket", exc_info=error)
        return {"error": type(told).__name__, "detail": told.detail, "advice": told.advice}


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A name of the socket that fits the 108 bytes of sockaddr_un, however deep the folder lies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{CONTROL}"
    finally:
        os.close(descriptor)
