"""A device dies in mid-sentence: the reader gets the very tokens that would have come, after a pause."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from device.agent.host import StageHost
from device.agent.program import Agent
from device.engine.stage import StageEngine
from fleet.answering.views import GenerateRequest, GenerateResult, TokenChunk
from fleet.deploying import stream
from fleet.deploying.desired import Policy
from fleet.planning.plan import PlanRequest
from protos.decoding import DecodeMode
from protos.errors import FleetError, TimedOut, Unavailable
from protos.sampling import Sampling
from tests.support.fake_fleet import ask
from tests.support.proxied_fleet import LONG as USUAL
from tests.support.proxied_fleet import Box, ProxiedFleet, proxied_fleet
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head runs no more than a few tokens ahead of the reader, so that an answer is not over when something happens to it."""
    monkeypatch.setattr(stream, "WAITING_TOKENS", 2)


LONG = dataclasses.replace(USUAL, ignore_eos=True)
SAMPLED = dataclasses.replace(LONG, sampling=Sampling(temperature=1.2, top_k=40, repetition_penalty=1.1, seed=7))

# All that decides about a token at once.
GUIDED = dataclasses.replace(
    SAMPLED,
    ignore_eos=False,
    json_schema=json.dumps({"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 30}),
    sampling=dataclasses.replace(SAMPLED.sampling, presence_penalty=0.5, frequency_penalty=0.1),
    logit_bias=((120, 3.0),),
    logprobs=2,
)
# Whose prompt was told before the ring broke.
READ = dataclasses.replace(LONG, prompt_logprobs=2, echo=True)


async def deploy(fleet: ProxiedFleet, stages: int, *, decode: DecodeMode = "rows", **how: Any) -> None:
    async for _ in fleet.coordinator.deploy(PlanRequest("tiny", stages=stages, decode=decode), **how):
        pass


async def die(box: Box) -> None:
    """As its process is killed: what it held is gone."""
    await box.agent.__aexit__(None, None, None)


async def come_back(box: Box) -> None:
    port = int(box.proxy.target.rpartition(":")[2])
    box.agent = Agent(dataclasses.replace(box.agent.config, port=port), box.hardware)
    await box.agent.__aenter__()


def holder(fleet: ProxiedFleet, stage: int) -> Box:
    """The box with this stage of the first pipeline."""
    device = fleet.coordinator.deployments()[0].pipelines[0].stages[stage].device_id
    return next(box for box in fleet.boxes if box.device == device)


class Reader:
    """Of one answer, as it comes."""

    def __init__(self, fleet: ProxiedFleet, request: GenerateRequest) -> None:
        self.parts: AsyncGenerator[TokenChunk | GenerateResult, None] = fleet.coordinator.generate(request)
        self.chunks: list[TokenChunk] = []

    async def some(self, tokens: int = 5) -> None:
        while sum(len(chunk.token_ids) for chunk in self.chunks) < tokens:
            part = await anext(self.parts)
            assert isinstance(part, TokenChunk)
            self.chunks.append(part)

    async def rest(self) -> GenerateResult:
        async with aclosing(self.parts):
            async for part in self.parts:
                if isinstance(part, GenerateResult):
                    assert part.text == "".join(chunk.text for chunk in self.chunks)
                    assert part.token_ids == tuple(token for chunk in self.chunks for token in chunk.token_ids)
                    return part
                self.chunks.append(part)
        raise AssertionError("no result")


@pytest.mark.parametrize(
    ("stage", "request_"),
    [
        (0, LONG),
        (1, GUIDED),
        *(
            pytest.param(stage, request, marks=pytest.mark.long)
            for stage, request in ((0, SAMPLED), (1, LONG), (2, LONG), (2, GUIDED), (1, READ), (2, READ))
        ),
    ],
)
async def test_whichever_stage_dies_the_answer_is_what_would_have_come(tmp_path: Path, stage: int, request_: GenerateRequest) -> None:
    async with proxied_fleet(tmp_path, 3) as fleet:
        await deploy(fleet, 3)
        _, whole = await ask(fleet.coordinator, request_)
        lost = holder(fleet, stage)
        readers = [Reader(fleet, request_) for _ in range(3)]
        for number, reader in enumerate(readers):
            await reader.some(5 + 9 * number)
        await die(lost)
        ends = [asyncio.create_task(reader.rest()) for reader in readers]
        await wait_until(lambda: any(view.state == "recovering" for view in fleet.coordinator.requests()))
        await come_back(lost)
        for result in await asyncio.gather(*ends):
            assert (result.token_ids, result.text, result.finish_reason) == (whole.token_ids, whole.text, whole.finish_reason)
            assert result.logprobs == whole.logprobs
            assert result.prompt == whole.prompt
            assert not request_.json_schema or result.text.startswith('["')
            assert len(result.logprobs) == (0 if request_.logprobs is None else len(result.token_ids))
            assert result.recoveries == 1
            assert result.recovery_seconds > 0
            assert result.total_seconds > result.recovery_seconds
            assert result.recovery == "exact"
        assert whole.recoveries == whole.recovery_seconds == 0


@pytest.mark.parametrize(("within", "recovery"), [(0.0, "fast"), pytest.param(1e30, "exact", marks=pytest.mark.long)])
async def test_what_was_lost_is_prefilled_where_the_policy_says_so(tmp_path: Path, within: float, recovery: str) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        await deploy(fleet, 2, policy=Policy(exact_within_seconds=within))
        _, whole = await ask(fleet.coordinator, GUIDED)
        reader = Reader(fleet, GUIDED)
        await reader.some(40)
        await die(lost := holder(fleet, 1))
        end = asyncio.create_task(reader.rest())
        await wait_until(lambda: any(view.state == "recovering" for view in fleet.coordinator.requests()))
        await come_back(lost)
        result = await end
        assert (result.recovery, result.recoveries, whole.recovery) == (recovery, 1, None)
        assert result.token_ids[:40] == whole.token_ids[:40]
        assert result.text.startswith('["')  # its rules go on as well
        assert len(result.logprobs) == len(result.token_ids)
        if recovery == "exact":
            assert result.token_ids == whole.token_ids


async def test_by_pairs_what_was_lost_is_prefilled_and_the_answer_is_what_would_have_come(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        await deploy(fleet, 2, decode="pairs", policy=Policy(exact_within_seconds=0.0))
        assert [view.pipelines[0].decode for view in fleet.coordinator.deployments()] == ["pairs"]
        _, whole = await ask(fleet.coordinator, GUIDED)
        assert whole.drafted_tokens > whole.accepted_tokens > 0
        reader = Reader(fleet, GUIDED)
        await reader.some(40)
        await die(lost := holder(fleet, 1))
        end = asyncio.create_task(reader.rest())
        await wait_until(lambda: any(view.state == "recovering" for view in fleet.coordinator.requests()))
        await come_back(lost)
        result = await end
        assert (result.decode, result.recovery, result.recoveries) == ("pairs", "exact", 1)
        assert result.token_ids == whole.token_ids
        assert [cost.rejected_rows > 0 for cost in result.devices] == [True, True]


@pytest.mark.long
async def test_one_that_dies_again_and_again(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        await deploy(fleet, 2)
        _, whole = await ask(fleet.coordinator, LONG)
        reader = Reader(fleet, LONG)
        for stage, tokens in ((1, 5), (0, 90)):
            await reader.some(tokens)
            await die(lost := holder(fleet, stage))
            await come_back(lost)
        result = await reader.rest()
        assert (result.token_ids, result.recoveries) == (whole.token_ids, 2)


async def test_another_pipeline_goes_on_at_once(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 4) as fleet:
        await deploy(fleet, 2, replicas=2)
        _, whole = await ask(fleet.coordinator, LONG)
        reader = Reader(fleet, LONG)
        await reader.some()
        [view, *_] = fleet.coordinator.requests()
        device = next(
            one.stages[1].device_id for one in fleet.coordinator.deployments()[0].pipelines if one.pipeline_id == view.pipeline_id
        )
        await die(next(box for box in fleet.boxes if box.device == device))  # and stays away
        result = await reader.rest()
        assert (result.token_ids, result.recoveries) == (whole.token_ids, 1)


@pytest.mark.long
async def test_a_pipeline_that_is_planned_anew_goes_on(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 3) as fleet:
        await deploy(fleet, 2, policy=Policy(replan_after_seconds=0.5))
        _, whole = await ask(fleet.coordinator, LONG)
        reader = Reader(fleet, LONG)
        await reader.some()
        await die(holder(fleet, 1))  # and stays away: the third device takes its place
        result = await reader.rest()
        assert (result.token_ids, result.recoveries) == (whole.token_ids, 1)


async def stands_by(fleet: ProxiedFleet) -> None:
    def ready() -> list[str]:
        return [one.state for one in fleet.coordinator.deployments()[0].pipelines[0].standbys]

    await wait_until(lambda: ready() == ["ready"], timeout_seconds=20)


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=pytest.mark.long)])
async def test_a_standby_has_the_place_of_who_dies(tmp_path: Path, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxied_fleet(tmp_path, 3) as fleet:
        await deploy(fleet, 2, policy=Policy(replan_after_seconds=None, standby=1))
        _, whole = await ask(fleet.coordinator, SAMPLED)
        await stands_by(fleet)
        readers = [Reader(fleet, SAMPLED) for _ in range(3)]
        for reader in readers:
            await reader.some()
        lost = holder(fleet, stage)
        with monkeypatch.context() as patched:
            patched.setattr(StageHost, "_build", None)  # nobody reads weights again
            patched.setattr(StageEngine, "prefill", None)  # nor any prompt
            await die(lost)  # and stays away
            for result in await asyncio.gather(*[reader.rest() for reader in readers]):
                assert (result.token_ids, result.recoveries) == (whole.token_ids, 1)
        await come_back(lost)
        await stands_by(fleet)
        assert await fleet.open_sequences() == 0


@pytest.mark.long
@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.long), 1])
async def test_whoever_is_drained_breaks_no_answer(tmp_path: Path, stage: int) -> None:
    async with proxied_fleet(tmp_path, 3) as fleet:
        await deploy(fleet, 2)
        _, whole = await ask(fleet.coordinator, LONG)
        readers = [Reader(fleet, LONG) for _ in range(3)]
        for reader in readers:
            await reader.some()
        left = holder(fleet, stage)
        await fleet.coordinator.drain(left.name)
        ends = [asyncio.create_task(reader.rest()) for reader in readers]
        await wait_until(lambda: "drained" in [one.drain for one in fleet.coordinator.devices()], timeout_seconds=20)
        await die(left)  # it is switched off
        for result in await asyncio.gather(*ends):
            assert result.token_ids == whole.token_ids


@pytest.mark.long
async def test_a_cable_that_is_pulled_and_put_back(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        await deploy(fleet, 2)
        _, whole = await ask(fleet.coordinator, LONG)
        for box in fleet.boxes:
            reader = Reader(fleet, LONG)
            await reader.some()
            await box.proxy.cut()
            assert (await reader.rest()).token_ids == whole.token_ids


@pytest.mark.long
async def test_what_is_stopped_by_a_string_and_what_is_forced_stays_so(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        await deploy(fleet, 2)
        _, plain = await ask(fleet.coordinator, LONG)
        request = dataclasses.replace(LONG, stop=(plain.text[60:64],), forced_ids=plain.token_ids[:3], min_tokens=20)
        _, whole = await ask(fleet.coordinator, request)
        reader = Reader(fleet, request)
        await reader.some(8)
        await die(lost := holder(fleet, 1))
        await come_back(lost)
        result = await reader.rest()
        assert (result.token_ids, result.text, result.finish_reason) == (whole.token_ids, whole.text, whole.finish_reason)


async def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        await deploy(fleet, 2)
        readers = [
            Reader(fleet, dataclasses.replace(LONG, timeout_seconds=3.0)),  # has a deadline
            Reader(fleet, LONG),  # is cancelled
            Reader(fleet, LONG),  # is left with its deployment
        ]
        for reader in readers:
            await reader.some()
        await die(holder(fleet, 1))
        overdue, cancelled, left = (asyncio.create_task(reader.rest()) for reader in readers)
        await wait_until(lambda: sum(view.state == "recovering" for view in fleet.coordinator.requests()) == 3)
        with pytest.raises(TimedOut, match="deadline has passed, after"):
            await overdue
        await fleet.coordinator.cancel(fleet.coordinator.requests()[1].request_id)
        result = await cancelled
        assert (result.finish_reason, len(result.token_ids) >= 5) == ("cancelled", True)
        await fleet.coordinator.undeploy("tiny")
        with pytest.raises(FleetError):
            await left
        assert all(view.state == "ended" for view in fleet.coordinator.requests())


async def test_when_nothing_comes_back_the_error_says_what_is_away(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        fleet.coordinator._generation._recovery_seconds = 1.0
        await deploy(fleet, 2)
        reader = Reader(fleet, LONG)
        await reader.some()
        await die(lost := holder(fleet, 1))
        with pytest.raises(Unavailable, match=lost.name):
            await reader.rest()
