from __future__ import annotations

import asyncio
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from protos.errors import Internal, InvalidInput, TimedOut, Unavailable
from sim_devices.control import CONTROL, ask, served


async def answer(words: Sequence[str]) -> object:
    match words:
        case ["echo", *rest]:
            return rest
        case ["wait"]:
            await asyncio.Event().wait()
        case ["fail"]:
            raise InvalidInput("no such thing", advice="do otherwise")
    raise ZeroDivisionError("a defect")


async def test_words_in_answers_out_errors_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 40)  # a path longer than a socket's name may be
    folder.mkdir()
    async with served(folder, answer):
        assert stat.S_IMODE((folder / CONTROL).stat().st_mode) == 0o600
        assert await asyncio.to_thread(ask, folder, ["echo", "a b", "ü"]) == ["a b", "ü"]
        with pytest.raises(InvalidInput, match="no such thing") as caught:
            await asyncio.to_thread(ask, folder, ["fail"])
        assert caught.value.advice == "do otherwise"
        with pytest.raises(Internal, match="a defect"):
            await asyncio.to_thread(ask, folder, ["else"])
        with pytest.raises(TimedOut):
            await asyncio.to_thread(ask, folder, ["wait"], 0.05)
    assert not (folder / CONTROL).exists()
    with pytest.raises(Unavailable):
        ask(folder, ["echo"])


async def test_a_socket_that_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / CONTROL).touch()
    async with served(tmp_path, answer):
        assert await asyncio.to_thread(ask, tmp_path, ["echo", "1"]) == ["1"]
