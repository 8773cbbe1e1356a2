"""What a client may ask for, and what it is told at the end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from device.pipeline import clients
from device.pipeline.clients import Client, Track, parse_submit
from device.pipeline.sequences import Ending, Request, Sequence
from device.stage_spec import StageShape
from protos.errors import Busy, InvalidInput
from protos.sampling import Sampling, TokenRules
from protos.v1 import pipeline_pb2 as pb
from protos.v1 import telemetry_pb2

SHAPE = StageShape(8, 50, 0, 1, 1, 16, 20, 1, 2, 8, 1)


def submit(**fields: object) -> pb.Submit:
    return pb.Submit(**{"prompt_ids": [1, 2], "max_tokens": 3, **fields})  # type: ignore[arg-type]


def test_a_good_request_is_taken_as_it_is() -> None:
    wish = pb.Sampling(temperature=0.5, top_k=3, top_p=0.25, seed=2**64 - 1, min_p=0.125)
    request = parse_submit(submit(forced_ids=[4], sampling=wish, stop_token_ids=[9, 9]), SHAPE)
    assert request == Request((1, 2), (4,), Sampling(0.5, 3, 0.25, 2**64 - 1, 0.125), 3, frozenset({9}))
    assert parse_submit(submit(), SHAPE).sampling == Sampling()


def test_rules_for_tokens_are_taken_as_they_are() -> None:
    wish = pb.Sampling(
        min_tokens=2, allowed_token_ids=[4, 49], bad_words=[pb.TokenRun(ids=[1, 2])], logit_bias=[pb.TokenBias(id=7, bias=-2)]
    )
    assert parse_submit(submit(sampling=wish), SHAPE).rules == TokenRules(2, (4, 49), ((1, 2),), ((7, -2.0),))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"sampling": pb.Sampling(allowed_token_ids=[50])}, "token id 50"),
        ({"sampling": pb.Sampling(bad_words=[pb.TokenRun(ids=[1, 2**32 - 1])])}, "token id"),
        ({"sampling": pb.Sampling(bad_words=[pb.TokenRun()])}, "bad_words"),
        ({"sampling": pb.Sampling(logit_bias=[pb.TokenBias(id=50, bias=1)])}, "token id 50"),
        ({"sampling": pb.Sampling(logit_bias=[pb.TokenBias(id=5, bias=-101)])}, "logit_bias of token 5"),
        ({"sampling": pb.Sampling(bad_words=[pb.TokenRun(ids=[1])] * 700_000)}, "bad_words has 1025 texts: it may have 1024"),
        ({"sampling": pb.Sampling(bad_words=[pb.TokenRun(ids=[1] * 100)] * 200)}, "bad_words has 20000 tokens in all: it may have 16384"),
        ({"sampling": pb.Sampling(allowed_token_ids=[1] * (1 + (1 << 20)))}, "allowed_token_ids has 1048577 ids"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids has 1025 ids: it may have 1024"),
        ({"sampling": pb.Sampling(repetition_penalty=0.0)}, "repetition_penalty"),
        ({"sampling": pb.Sampling(typical_p=0.0)}, "typical_p"),
        ({"prompt_ids": []}, "empty"),
        ({"prompt_ids": [1] * 20}, "20 tokens"),
        ({"prompt_ids": [1] * 18, "forced_ids": [1, 2]}, "20 tokens"),
        ({"prompt_ids": [50]}, "token id 50"),
        ({"forced_ids": [2**32 - 1]}, "token id"),
        ({"max_tokens": 0, "forced_ids": [1]}, "max_tokens"),
        ({"forced_ids": [1, 2, 3]}, "forced"),
        ({"sampling": pb.Sampling(temperature=-0.1)}, "temperature"),
        ({"sampling": pb.Sampling(temperature=float("nan"))}, "temperature"),
        ({"sampling": pb.Sampling(temperature=float("inf"))}, "temperature"),
        ({"sampling": pb.Sampling(top_p=1.1)}, "top_p"),
        ({"sampling": pb.Sampling(top_p=0.0)}, "top_p"),
        ({"sampling": pb.Sampling(min_p=-0.1)}, "min_p"),
        ({"sampling": pb.Sampling(min_p=1.1)}, "min_p"),
        ({"sampling": pb.Sampling(min_p=float("nan"))}, "min_p"),
        ({"sampling": pb.Sampling(top_p=float("nan"))}, "top_p"),
    ],
)
def test_what_cannot_run_is_refused(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault):
        parse_submit(submit(**fields), SHAPE)


def test_the_longest_prompt_that_fits() -> None:
    assert len(parse_submit(submit(prompt_ids=[49] * 19), SHAPE).prompt_ids) == 19


async def test_a_refusal_is_told_as_an_end() -> None:
    client = Client()
    client.refuse(5, Busy("full", retry_after_seconds=1.5))
    (finished,) = (await client.take()).finished
    assert (finished.sequence, finished.reason) == (5, pb.FINISH_REASON_ERROR)
    assert (finished.failure.code, finished.failure.detail, finished.failure.retry_after_seconds) == ("Busy", "full", 1.5)


def tokens(*ids: int) -> pb.GenerateEvent:
    return pb.GenerateEvent(tokens=[pb.TokenEvent(token_id=id) for id in ids])


def ids(event: pb.GenerateEvent) -> list[int]:
    return [token.token_id for token in event.tokens]


async def test_tokens_go_together_until_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "TOGETHER_SECONDS", 3600.0)
    client = Client()
    client.send(tokens(1), urgent=True)
    assert ids(await client.take()) == [1]
    client.send(tokens(2), urgent=False)
    taking = asyncio.create_task(client.take())
    for _ in range(3):
        await asyncio.sleep(0)
    client.send(tokens(3, 4), urgent=False)
    assert not taking.done()
    client.send(tokens(5), urgent=True)
    assert ids(await taking) == [2, 3, 4, 5]


async def test_tokens_wait_for_their_like_no_longer_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "TOGETHER_SECONDS", 0.02)
    client = Client()
    client.send(tokens(1), urgent=False)
    assert ids(await client.take()) == [1]  # nothing was told before
    client.send(tokens(2), urgent=False)
    before = time.monotonic()
    assert ids(await client.take()) == [2]
    assert time.monotonic() - before >= 0.015


def track(ending: Ending | None = None, *, forced: int = 0) -> Track:
    client, sequence = Client(), Sequence(3, Request((1, 2), (0,) * forced, max_tokens=9))
    client.sequences[8] = sequence
    sequence.ending = ending
    return Track(client, 8, sequence, arrived_at=100.0, modelled_arrival=10.0)


async def test_times_are_from_the_arrival() -> None:
    one = track()
    one.start(101.0)
    one.note(102.0, 11.0)  # a chunk of the prompt
    one.sequence.answer.append(7)
    one.start(102.5)
    one.note(103.0, 12.0)
    one.sequence.answer.append(8)
    one.sequence.ending = Ending.LENGTH
    one.note(106.0, 14.5)
    one.note(109.0, 19.0)  # its release
    one.finish([telemetry_pb2.StageUsage(stage=4)])
    assert one.client.sequences == {}
    (finished,) = (await one.client.take()).finished
    assert (finished.sequence, finished.reason) == (8, pb.FINISH_REASON_LENGTH)
    assert finished.usage[0].stage == 4
    assert finished.timing == pb.SequenceTiming(
        queue_seconds=1.0,
        first_token_seconds=3.0,
        total_seconds=6.0,
        modelled_first_token_seconds=2.0,
        modelled_total_seconds=4.5,
        prompt_tokens=2,
        completion_tokens=2,
        told_tokens=2,
    )


def test_forced_tokens_are_no_first_token() -> None:
    one = track(forced=1)
    one.sequence.answer.append(0)
    one.note(102.0, None)
    assert one.first_token_at is None
    one.sequence.answer.append(7)
    one.note(103.0, None)
    assert one.first_token_at == 103.0


async def test_one_that_never_ran() -> None:
    one = track(Ending.CANCELLED)
    one.note(104.0, None)
    one.finish(())
    (finished,) = (await one.client.take()).finished
    assert finished.reason == pb.FINISH_REASON_CANCELLED
    assert (finished.timing.queue_seconds, finished.timing.total_seconds) == (4.0, 4.0)
    assert not finished.timing.HasField("modelled_total_seconds")


def test_the_vocabulary_s_last_id_is_in_it() -> None:
    assert parse_submit(submit(prompt_ids=[49]), replace(SHAPE, vocab_size=50)).prompt_ids == (49,)
