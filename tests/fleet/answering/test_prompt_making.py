"""Prompts that are made cost nobody else: streams go on, a prompt that never ends is ended, what nobody waits for is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from device.text import confined
from device.text.messages import Message, ToolCall
from fleet.answering import prompt_making
from fleet.answering.prompts import characters, load_text
from fleet.answering.views import GenerateRequest
from fleet.service.coordinator import Coordinator
from protos.errors import Busy, Corrupt, InvalidInput, TimedOut, Unavailable
from protos.manifest import TextFile
from tests.support.fake_fleet import FakeFleet, ask, fake_fleet
from tests.support.hostile_text import endless
from tests.support.waiting import wait_until

BOMBED = "a" * 2000
LONG = "a" * 2500


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is long fits the context of these tests."""
    monkeypatch.setattr(confined, "SHORT_CHARACTERS", 2200)


@asynccontextmanager
async def with_endless_tokenizer(folder: Path) -> AsyncIterator[tuple[FakeFleet, Coordinator]]:
    async with fake_fleet(folder) as fleet:
        files = {file.name: file for file in fleet.manifest.text_files}
        files["tokenizer.json"] = TextFile("tokenizer.json", fleet.artifacts.put(endless()))
        fleet.artifacts.save("tiny", replace(fleet.manifest, text_files=tuple(files.values())))
        async with fleet.deployed() as coordinator:
            yield fleet, coordinator


def workers() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if _works(one)]


def _works(process: psutil.Process) -> bool:
    try:
        return "device.text.text_worker" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


async def test_streams_go_on_while_a_prompt_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "SHORT_SECONDS", 100.0)  # that it is ended: tests/device/text/test_confined.py
    async with with_endless_tokenizer(tmp_path) as (fleet, coordinator):
        fleet.devices[0].is_told.token_ids = [65] * 100
        bombs = [asyncio.create_task(ask(coordinator, GenerateRequest(text=BOMBED))) for _ in range(3)]
        await wait_until(lambda: any(one.cpu_times().user > 0.5 for one in workers()))
        for _ in range(3):
            _, result = await ask(coordinator, GenerateRequest(prompt_ids=(1, 2)))
            assert result.completion_tokens == 100
        assert not any(bomb.done() for bomb in bombs)
        for bomb in bombs:
            bomb.cancel()
        await asyncio.gather(*bombs, return_exceptions=True)


async def test_short_prompts_do_not_wait_for_long_ones(tmp_path: Path) -> None:
    async with with_endless_tokenizer(tmp_path) as (_, coordinator):
        long = [asyncio.create_task(ask(coordinator, GenerateRequest(text=LONG))) for _ in range(4)]
        await wait_until(lambda: len(workers()) == 1 + prompt_making.LONG_AT_ONCE)
        _, result = await ask(coordinator, GenerateRequest(text="hello"))
        assert result.finish_reason == "stop"
        assert not any(one.done() for one in long)
        for one in long:
            one.cancel()
        await asyncio.gather(*long, return_exceptions=True)
        await wait_until(lambda: len(workers()) == 1)  # a minute before their time


async def test_too_many_long_prompts_are_told_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_making, "LONG_WAITING", 1)
    async with with_endless_tokenizer(tmp_path) as (_, coordinator):
        long = [asyncio.create_task(ask(coordinator, GenerateRequest(text=LONG))) for _ in range(3)]
        await wait_until(lambda: len(workers()) == 1 + prompt_making.LONG_AT_ONCE)
        with pytest.raises(Busy, match="1 long prompts are waiting"):
            await ask(coordinator, GenerateRequest(text=LONG))
        for one in long:
            one.cancel()
        await asyncio.gather(*long, return_exceptions=True)


async def test_a_coordinator_that_stops_waits_for_no_prompt(tmp_path: Path) -> None:
    async with with_endless_tokenizer(tmp_path) as (_, coordinator):
        asking = asyncio.create_task(ask(coordinator, GenerateRequest(text=LONG)))
        await wait_until(lambda: len(workers()) == 2)
    await wait_until(lambda: not workers())
    with pytest.raises(InvalidInput):
        await asking


async def test_a_deadline_holds_while_a_prompt_is_made(tmp_path: Path) -> None:
    async with with_endless_tokenizer(tmp_path) as (_, coordinator):
        await ask(coordinator, GenerateRequest(text="hello"))
        with pytest.raises(TimedOut, match="deadline has passed before its prompt was made"):
            await ask(coordinator, GenerateRequest(text=LONG, timeout_seconds=1.0))
        await wait_until(lambda: len(workers()) == 1)


async def test_a_coordinator_that_stops_makes_no_prompt(tmp_path: Path) -> None:
    async with with_endless_tokenizer(tmp_path) as (_, coordinator):
        await coordinator._generation._making.__aexit__(None, None, None)
        with pytest.raises(Unavailable, match="is stopping"):
            await ask(coordinator, GenerateRequest(text="hello"))


async def test_a_text_file_that_has_changed_is_not_read(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet:
        load_text(fleet.artifacts, fleet.manifest)
        for file in fleet.manifest.text_files:
            path = fleet.artifacts.blob_path(file.blob.digest)
            path.chmod(0o600)
            kept = path.read_bytes()
            path.write_bytes(kept + b" ")
            with pytest.raises(Corrupt, match=f"{file.name} has changed since it was imported"):
                load_text(fleet.artifacts, fleet.manifest)
            path.write_bytes(kept)


def test_all_that_is_made_tokens_counts() -> None:
    message = Message("user", "12", (ToolCall("3", "4"),), "5", "6", "7")
    request = GenerateRequest(messages=(message,), tools=("8",), chat_template_kwargs="90", bad_words=("1", "2"))
    assert characters(request) == len("user") + 12
    assert characters(GenerateRequest(text="abc")) == characters(GenerateRequest(prompt="abc")) == 3
    assert characters(GenerateRequest(prompt_ids=(1, 2))) == 0
