from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from device.text.messages import Message
from device.text.words import Words
from fleet.answering.answer import Answer
from fleet.answering.views import GenerateRequest, TokenChunk, TokenLogprobs
from fleet.deploying.stream import WAITING_TOKENS
from protos.errors import Busy, InvalidInput, NotFound, Unavailable
from protos.manifest import SamplingDefaults
from protos.route import Hop
from protos.sampling import Sampling, from_message
from tests.support.fake_fleet import ask, deploy, fake_fleet, wait_ready
from tests.support.waiting import wait_until

HELLO = list(b"Hello, world")


class Bytes:
    """Token ids are bytes; text as soon as a character is whole."""

    def __init__(self) -> None:
        self._held = b""

    def push(self, token_ids: Iterable[int]) -> str:
        self._held += bytes(token_ids)
        try:
            text, self._held = self._held.decode(), b""
        except UnicodeDecodeError:
            return ""
        return text

    def finish(self) -> str:
        text, self._held = self._held.decode(errors="replace"), b""
        return text


def test_answer_gives_whole_characters_with_the_tokens_they_took() -> None:
    answer = Answer(Bytes(), ())
    euro = list("€".encode())
    assert answer.push(euro[:2]) is None
    assert answer.push([euro[2]]) == TokenChunk("€", tuple(euro))
    assert answer.push(euro[:1]) is None
    assert answer.finish() == TokenChunk("�", (euro[0],))
    assert answer.finish() is None
    assert (answer.text, answer.token_ids) == ("€�", [*euro, euro[0]])


def test_a_stop_string_counts_only_behind_min_tokens() -> None:
    answer = Answer(Bytes(), ("END",), min_tokens=4)
    assert answer.push(b"aEND") == TokenChunk("aEND", tuple(b"aEND"))
    assert answer.push(b" EN") == TokenChunk(" ", tuple(b" EN")), "what may begin one is held back as ever"
    assert answer.push(b"D, more") is None
    assert (answer.stopped, answer.text) == (True, "aEND ")
    straddling = Answer(Bytes(), ("END",), min_tokens=2)
    assert straddling.push(b"ENDED") is None
    assert (straddling.stopped, straddling.text) == (True, "")


def test_answer_ends_at_a_stop_string_and_drops_what_follows() -> None:
    answer = Answer(Bytes(), ("END",))
    assert answer.push(b"fine E") == TokenChunk("fine ", tuple(b"fine E"))
    assert answer.push(b"NDless") is None
    assert answer.stopped
    assert answer.finish() == TokenChunk("", tuple(b"ND"))
    assert (answer.text, bytes(answer.token_ids)) == ("fine ", b"fine END")


def test_answer_gives_back_what_only_looked_like_a_stop() -> None:
    answer = Answer(Bytes(), ("END",))
    assert answer.push(b"E") is None
    assert answer.finish() == TokenChunk("E", tuple(b"E"))


def test_answer_keeps_the_log_probabilities_of_the_tokens_that_it_gave() -> None:
    told = [TokenLogprobs(one, chr(one), (one,), -1.0) for one in b"ab ENDless"]
    answer = Answer(Bytes(), ("END",))
    assert answer.push(b"ab E", told[:4]) == TokenChunk("ab ", tuple(b"ab E"), logprobs=tuple(told[:4]))
    assert answer.push(b"NDless", told[4:]) is None
    assert answer.finish() == TokenChunk("", tuple(b"ND"), logprobs=tuple(told[4:6]))
    assert answer.logprobs == told[:6]


async def test_answer_with_its_cost(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        device.is_told.token_ids = HELLO
        chunks, result = await ask(coordinator, GenerateRequest(prompt="hi", sampling=Sampling(seed=7)))
        assert "".join(chunk.text for chunk in chunks) == result.text == "Hello, world"
        assert [one for chunk in chunks for one in chunk.token_ids] == list(result.token_ids) == HELLO
        assert (result.finish_reason, result.completion_tokens, result.model, result.deployment) == ("stop", 12, "tiny", "tiny")
        assert result.ttft_seconds == pytest.approx(0.5)
        assert result.tpot_seconds == pytest.approx(0.1)
        assert result.modelled_ttft_seconds == pytest.approx(0.25)
        assert result.modelled_tpot_seconds == pytest.approx(0.05)
        [cost] = result.devices
        assert (cost.device_name, cost.joules, cost.source, cost.joules_per_token) == (device.name, 3.0, "modelled", 0.25)
        submit = device.submitted[0]
        assert submit.sampling.seed == 7
        assert list(submit.stop_token_ids) == list(fleet.manifest.config.eos_token_ids)
        await ask(coordinator, GenerateRequest(prompt="hi", ignore_eos=True, reuse_decoded=True, max_tokens=20))
        assert list(device.submitted[1].stop_token_ids) == []
        assert [each.reuse_decoded for each in device.submitted] == [False, True]
        assert result.prompt_tokens == len(submit.prompt_ids)
        assert submit.max_tokens == coordinator.deployments()[0].context - len(submit.prompt_ids)
        [row] = await coordinator.telemetry(600, "model")
        assert (row.key, row.requests, row.completion_tokens, row.busy_joules, row.source) == ("tiny", 2, 24, 6.0, "modelled")


async def test_prompt_forms_make_the_ids(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        await ask(coordinator, GenerateRequest(prompt="hi"))
        await ask(coordinator, GenerateRequest(messages=(Message("user", "hi"),)))
        await ask(coordinator, GenerateRequest(prompt_ids=(1, 2, 3)))
        await ask(coordinator, GenerateRequest(text="hi", model="tiny"))
        templated, messages, raw_ids, text = [list(submit.prompt_ids) for submit in device.submitted]
        assert templated == messages
        assert raw_ids == [1, 2, 3]
        assert 0 < len(text) < len(templated)
        seeds = {submit.sampling.seed for submit in device.submitted}
        assert len(seeds) == 4  # fresh ones


@pytest.mark.parametrize("opened", [True, False])
async def test_an_answer_inside_a_thought_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: bool) -> None:
    prompts: list[list[int]] = []
    monkeypatch.setattr(Words, "opens_thought", lambda self, ids: prompts.append(list(ids)) or opened)
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        device.is_told.token_ids = HELLO
        chunks, result = await ask(coordinator, GenerateRequest(prompt="hi"))
        assert {chunk.in_thought for chunk in chunks} == {result.in_thought} == {opened}
        assert prompts == [list(device.submitted[0].prompt_ids)]


async def test_what_a_request_leaves_to_the_model_is_as_its_maker_says(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet:
        sampling = SamplingDefaults(temperature=0.8, top_k=40, top_p=0.8)
        fleet.artifacts.save("tiny", replace(fleet.manifest, sampling=sampling))
        async with fleet.deployed() as coordinator:
            left = ("temperature", "top_k", "top_p", "seed", "min_p")
            for own, names in (
                (Sampling(temperature=1.0), left),
                (Sampling(temperature=0.0), left[1:]),  # given: greedy
                (Sampling(temperature=0.5, top_k=0, seed=3), ("top_p", "min_p")),
                (Sampling(), ()),
            ):
                await ask(coordinator, GenerateRequest(prompt="hi", sampling=own, left_to_model=names))
    given = [from_message(submit.sampling) for submit in fleet.devices[0].submitted]
    assert [(one.temperature, one.top_k, one.top_p) for one in given] == [(0.8, 40, 0.8), (0.0, 40, 0.8), (0.5, 0, 0.8), (0.0, 0, 1.0)]
    assert given[2].seed == 3
    assert given[0].seed != given[1].seed


async def test_unmetered_joules_are_none(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        fleet.devices[0].is_told.unmetered = True
        fleet.devices[0].is_told.token_ids = [65]
        _, result = await ask(coordinator, GenerateRequest(prompt="hi"))
        [cost] = result.devices
        assert (cost.joules, cost.joules_per_token, cost.source) == (None, None, "unmetered")
        assert (result.tpot_seconds, result.modelled_tpot_seconds) == (None, None)  # one token


async def test_forced_tokens_are_part_of_the_answer(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        fleet.devices[0].is_told.token_ids = HELLO[5:]
        chunks, result = await ask(coordinator, GenerateRequest(prompt="hi", forced_ids=tuple(HELLO[:5])))
        assert (result.text, list(result.token_ids), result.completion_tokens) == ("Hello, world", HELLO, 12)
        assert chunks[0] == TokenChunk("Hello", tuple(HELLO[:5]))
        assert list(fleet.devices[0].submitted[0].forced_ids) == HELLO[:5]


async def test_length_is_told(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        fleet.devices[0].is_told.token_ids = HELLO
        _, result = await ask(coordinator, GenerateRequest(prompt="hi", max_tokens=3))
        assert (result.text, result.finish_reason) == ("Hel", "length")


async def test_stop_string_cancels_and_still_knows_the_cost(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        device.is_told.token_ids = [*HELLO, *HELLO * 10]
        _, result = await ask(coordinator, GenerateRequest(prompt="hi", stop=("wor",)))
        assert (result.text, result.finish_reason) == ("Hello, ", "stop")
        assert list(result.token_ids) == HELLO[:10]
        assert result.devices[0].joules == 3.0
        await wait_until(lambda: device.cancelled == [1])


async def test_leaving_early_cancels_and_the_cost_is_kept(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        device.is_told.token_ids = HELLO * 1000
        parts = coordinator.generate(GenerateRequest(prompt="hi", max_tokens=100_000))
        await anext(parts)
        await parts.aclose()
        await wait_until(lambda: device.cancelled == [1])
        rows = []

        async def kept() -> None:
            while not rows:
                rows.extend(await coordinator.telemetry(600, "deployment"))

        await asyncio.wait_for(kept(), 5)
        assert rows[0].requests == 1
        assert rows[0].completion_tokens == device.told_tokens  # those that nobody took cost joules too


async def test_cancelled_task_cancels_the_sequence(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        device.is_told.tokens_wait = asyncio.Event()
        asking = asyncio.create_task(ask(coordinator, GenerateRequest(prompt="hi")))
        await wait_until(lambda: device.submitted)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await wait_until(lambda: device.cancelled == [1])


async def test_slow_client_pauses_only_its_sequence(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        device.is_told.token_ids = (HELLO * 100)[:200]  # what the context leaves is more
        device.is_told.token_seconds = 0.002
        slow = coordinator.generate(GenerateRequest(prompt="hi"))
        parts = [await anext(slow)]
        await wait_until(lambda: device.pauses == [True])
        assert WAITING_TOKENS < device.told_tokens < 200
        _, other = await ask(coordinator, GenerateRequest(prompt="hi", max_tokens=5))
        assert other.completion_tokens == 5
        parts += [part async for part in slow]
        assert list(parts[-1].token_ids) == (HELLO * 100)[:200]
        assert device.pauses[:2] == [True, False]


async def test_many_at_once_get_their_own_tokens(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        fleet.devices[0].is_told.token_ids = HELLO
        results = await asyncio.gather(*(ask(coordinator, GenerateRequest(prompt="hi", max_tokens=count)) for count in range(1, 9)))
        assert [result.text for _, result in results] == ["Hello, world"[:count] for count in range(1, 9)]


async def test_stream_loss_fails_what_is_in_flight_and_heals(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        device.is_told.tokens_wait = asyncio.Event()
        asking = asyncio.create_task(ask(coordinator, GenerateRequest(prompt="hi")))
        await wait_until(lambda: device.submitted)
        await device.stop()
        with pytest.raises(Unavailable, match=device.name):
            await asking
        assert coordinator.deployments()[0].state == "degraded"
        with pytest.raises(Unavailable):
            await ask(coordinator, GenerateRequest(prompt="hi"))
        device.is_told.tokens_wait = None
        await device.start()  # its stages are still there: only the link was lost
        await wait_ready(coordinator)
        assert device.calls.count("LoadStage") == 1
        _, result = await ask(coordinator, GenerateRequest(prompt="hi"))
        assert result.finish_reason == "stop"


async def test_heads_failure_comes_back_by_class_with_names(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        device.is_told.failure = Busy("too much").at(Hop(device.device, 1))
        with pytest.raises(Busy, match=f"^{device.name}: stage 1 on {device.name}: too much$") as failed:
            await ask(coordinator, GenerateRequest(prompt="hi"))
        assert failed.value.cause == "too much"


async def test_failure_from_the_release_before_has_names_too(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        device.is_told.release_before = True
        device.is_told.failure = Busy("too much").at(Hop(device.device, 1))
        with pytest.raises(Busy, match=f"^{device.name}: stage 1 on {device.name}: too much$"):
            await ask(coordinator, GenerateRequest(prompt="hi"))


async def test_a_ring_that_does_not_close_is_told_with_names(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.coordinating() as coordinator:
        [device] = fleet.devices
        device.is_told.errors["Generate"] = Unavailable("nobody listens").at(Hop(device.device, 1))
        with pytest.raises(Unavailable, match=f"^{device.name}: stage 1 on {device.name}: nobody listens$"):
            await deploy(coordinator)


async def test_store_that_fails_does_not_fail_the_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        with contextlib.closing(sqlite3.connect(fleet.home.state_file)) as database:
            database.execute("DROP TABLE requests")
        _, result = await ask(coordinator, GenerateRequest(prompt="hi"))
        assert result.finish_reason == "stop"
        await wait_until(lambda: "was not recorded" in caplog.text)


async def test_what_the_store_did_not_take_of_a_request_is_recorded_with_the_next(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        with contextlib.closing(sqlite3.connect(fleet.home.state_file)) as database:
            database.execute("ALTER TABLE requests RENAME TO gone")
            await ask(coordinator, GenerateRequest(prompt="hi"))
            database.execute("ALTER TABLE gone RENAME TO requests")
        assert await coordinator.telemetry(600, "model") == []
        await ask(coordinator, GenerateRequest(prompt="hi"))
        [row] = await coordinator.telemetry(600, "model")
        assert (row.requests, row.completion_tokens, row.busy_joules) == (2, 4, 6.0)


async def test_a_request_that_a_ring_began_and_lost_is_shown_as_one_whose_cost_nobody_knows(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        [device] = fleet.devices
        await ask(coordinator, GenerateRequest(prompt="hi"))
        device.is_told.failure = Busy("too much")
        with pytest.raises(Busy):
            await ask(coordinator, GenerateRequest(prompt="hi"))
        [row] = await coordinator.telemetry(600, "model")
        assert (row.requests, row.partial) == (1, False)  # what was refused cost nothing
        device.is_told.failure = Unavailable("the ring broke")
        with pytest.raises(Unavailable):
            await ask(coordinator, GenerateRequest(prompt="hi"))
        [row] = await coordinator.telemetry(600, "model")
        assert (row.requests, row.completion_tokens, row.joules_per_token, row.partial) == (2, 2, 1.5, True)
        [row] = await coordinator.telemetry(600, "device")
        assert (row.completion_tokens, row.busy_joules) == (6, 6.0)  # the device knows


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GenerateRequest(), "no prompt"),
        (GenerateRequest(prompt="a", text="b"), "more than one"),
        (GenerateRequest(prompt="  "), "empty"),
        (GenerateRequest(text=""), "empty"),
        (GenerateRequest(prompt_ids=(1, 272)), "272 is not in the vocabulary"),
        (GenerateRequest(prompt_ids=(-1,)), "-1 is not in the vocabulary"),
        (GenerateRequest(prompt_ids=(1,), forced_ids=(999,)), "999 is not in the vocabulary"),
        (GenerateRequest(prompt_ids=(1,) * 256), "256 tokens; this deployment's context is 256"),
        (GenerateRequest(prompt_ids=(1,), forced_ids=(1, 2), max_tokens=2), "2 forced tokens"),
        (GenerateRequest(prompt="a", max_tokens=0), "max_tokens is 0"),
        (GenerateRequest(prompt="a", sampling=Sampling(temperature=-1.0)), "temperature"),
        (GenerateRequest(prompt="a", sampling=Sampling(temperature=float("nan"))), "temperature"),
        (GenerateRequest(prompt="a", sampling=Sampling(top_p=0.0)), "top_p"),
        (GenerateRequest(prompt="a", sampling=Sampling(top_k=-1)), "top_k"),
        (GenerateRequest(prompt="a", sampling=Sampling(seed=-1)), "seed"),
        (GenerateRequest(prompt="a", stop=("",)), "stop string"),
    ],
)
async def test_bad_requests_never_reach_a_device(deployment, request_: GenerateRequest, message: str) -> None:
    fleet, coordinator = deployment
    with pytest.raises(InvalidInput, match=message) as refused:
        await ask(coordinator, request_)
    assert refused.value.advice
    assert fleet.devices[0].submitted == []


@pytest.fixture
async def deployment(tmp_path: Path):
    async with contextlib.AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(fake_fleet(tmp_path))
        yield fleet, await stack.enter_async_context(fleet.deployed())


async def test_which_model(tmp_path: Path) -> None:
    async with fake_fleet(tmp_path, 2) as fleet, fleet.coordinating() as coordinator:
        with pytest.raises(NotFound, match="no model is deployed") as none:
            await ask(coordinator, GenerateRequest(prompt="hi"))
        assert "glmfleet deploy" in none.value.advice
        await deploy(coordinator)
        with pytest.raises(NotFound, match="'other'") as unknown:
            await ask(coordinator, GenerateRequest(prompt="hi", model="other"))
        assert "tiny" in unknown.value.advice
        await deploy(coordinator, name="second")
        with pytest.raises(InvalidInput, match="several") as several:
            await ask(coordinator, GenerateRequest(prompt="hi"))
        assert "second, tiny" in several.value.advice
        _, result = await ask(coordinator, GenerateRequest(prompt="hi", model="second"))
        assert (result.deployment, result.model) == ("second", "tiny")
