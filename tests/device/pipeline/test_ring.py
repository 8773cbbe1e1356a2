"""The ring of real agents: the text does not depend on the cut, on company, on replay; and nothing is left open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device.hardware import RunThread
from device.pipeline.head import Head
from device.pipeline.link import Link
from protos.dtypes import KvDtype
from protos.errors import Conflict, InvalidInput, NotFound, Unavailable
from protos.manifest import Manifest
from protos.v1 import pipeline_pb2
from quantize.artifact.store import ArtifactStore
from tests.support.checkpoints import TinyGlm
from tests.support.goldens import import_golden
from tests.support.ring import Client, ring, tiny_model
from tests.support.waiting import wait_until

SHAPE = TinyGlm(layers=5)
PROMPTS = [list(range(5, 5 + length)) for length in (1, 2, 7, 16, 33)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ArtifactStore]:
    return tiny_model(tmp_path_factory.mktemp("model"), SHAPE)


async def alone(folder: Path, manifest: Manifest, store: ArtifactStore, kv_dtype: KvDtype = "float32") -> list[list[int]]:
    async with ring(folder, manifest, store, 1, kv_dtype=kv_dtype) as one, one.client() as client:
        return [(await client.ask(prompt, 20)).token_ids for prompt in PROMPTS]


@pytest.mark.parametrize("stages", [pytest.param(2, marks=pytest.mark.long), 3, pytest.param(5, marks=pytest.mark.long)])
async def test_cut_company_and_replay_do_not_change_the_text(tmp_path: Path, model: tuple[Manifest, ArtifactStore], stages: int) -> None:
    expected = await alone(tmp_path / "one", *model)
    async with ring(tmp_path / "many", *model, stages) as many, many.client() as client:
        assert [(await client.ask(prompt, 20)).token_ids for prompt in PROMPTS] == expected
        together = await asyncio.gather(*(client.ask(prompt, 20) for prompt in PROMPTS * 3))
        assert [answer.token_ids for answer in together] == expected * 3
        replays = await asyncio.gather(*(client.ask(p, 20, forced=e[:10]) for p, e in zip(PROMPTS, expected, strict=True)))
        assert [answer.token_ids for answer in replays] == [tokens[10:] for tokens in expected]
        assert replays[0].indices == list(range(10, 20))
        assert await many.open_sequences() == 0


async def test_a_token_is_one_turn_of_each_stage(
    tmp_path: Path, model: tuple[Manifest, ArtifactStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head ends a round and begins the next in the same turn."""
    turns, turn = [0], RunThread.turn

    async def counted(thread: RunThread, function: Callable[[], Any], *, brief: bool = False) -> Any:
        turns[0] += 1
        return await turn(thread, function, brief=brief)

    async with ring(tmp_path, *model, 2) as two, two.client() as client:
        monkeypatch.setattr(RunThread, "turn", counted)
        await client.ask(PROMPTS[2], 20)
        # Two of the prefill; of 19 rounds the first comes after a turn of the head's for the prefill's token.
        assert turns[0] == 2 + 1 + 19 * 2 + 1
        slow = await client.start(PROMPTS[2], 100)
        await client.ask(PROMPTS[3], 5)
        assert len((await client.end(slow)).token_ids) == 100


async def test_blocks_of_128_are_as_exact(tmp_path: Path) -> None:
    """Wide enough that the kernels' last odd row would differ (ARCHITECTURE.md, row_multiple)."""
    wide = tiny_model(tmp_path, TinyGlm(hidden_size=256, layers=3, heads=4, head_dim=64, intermediate_size=384), block_size=128)
    expected = await alone(tmp_path / "one", *wide)
    async with ring(tmp_path / "many", *wide, 3) as many, many.client() as client:
        together = await asyncio.gather(*(client.ask(prompt, 20) for prompt in PROMPTS * 3))
        assert [answer.token_ids for answer in together] == expected * 3


@pytest.mark.parametrize(
    ("name", "stages", "kv_dtype"),
    [
        pytest.param("glm-4.5", 3, "float32", marks=pytest.mark.long),
        ("glm-4.7-flash-plain", 3, "int8"),
        pytest.param("glm-4.5-groups", 2, "float32", marks=pytest.mark.long),
        pytest.param("glm-4.7-flash", 2, "float32", marks=pytest.mark.long),
    ],
)
async def test_a_mixture_of_experts_is_as_exact(tmp_path: Path, name: str, stages: int, kv_dtype: KvDtype) -> None:
    """How many rows an expert gets depends on the company; what they give must not. Nor over a latent, whose cache is one array."""
    model = import_golden(name, tmp_path)
    expected = await alone(tmp_path / "one", *model, kv_dtype)
    assert len({tuple(tokens) for tokens in expected}) == len(PROMPTS)
    async with ring(tmp_path / "many", *model, stages, chunk=6, kv_dtype=kv_dtype) as many, many.client() as client:
        assert [(await client.ask(prompt, 20)).token_ids for prompt in PROMPTS] == expected
        together = await asyncio.gather(*(client.ask(prompt, 20) for prompt in PROMPTS * 3))
        assert [answer.token_ids for answer in together] == expected * 3


ALSO_EXACT = [pytest.param(32, one, marks=pytest.mark.long) for one in (True, False)]


@pytest.mark.parametrize(("block_size", "symmetric"), [(128, False), *ALSO_EXACT])
async def test_weights_of_4_bits_are_as_exact(tmp_path: Path, block_size: int, symmetric: bool) -> None:
    """Wide enough that a lone row would differ (ARCHITECTURE.md, row_multiple)."""
    shape = TinyGlm(hidden_size=256, layers=3, heads=4, head_dim=64, intermediate_size=384)
    wide = tiny_model(tmp_path, shape, block_size, bits=4, symmetric=symmetric)
    expected = await alone(tmp_path / "one", *wide)
    async with ring(tmp_path / "many", *wide, 3) as many, many.client() as client:
        assert [(await client.ask(prompt, 20)).token_ids for prompt in PROMPTS] == expected
        together = await asyncio.gather(*(client.ask(prompt, 20) for prompt in PROMPTS * 3))
        assert [answer.token_ids for answer in together] == expected * 3


async def test_a_prefix_that_others_made_changes_nothing(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    system = list(range(3, 60))
    prompts = [[*system, *tail] for tail in ([1], [200, 201], [7] * 9, [1])] + [system[:33], [*system[:40], 9, 9]]
    cold = []
    for index, prompt in enumerate(prompts):
        async with ring(tmp_path / f"cold-{index}", *model, 1) as one, one.client() as client:
            answer = await client.ask(prompt, 20)
            assert answer.finished
            assert answer.finished.timing.reused_tokens == 0
            cold.append(answer.token_ids)
    async with ring(tmp_path / "warm", *model, 2) as two, two.client() as client:
        together = await asyncio.gather(*(client.ask(prompt, 20) for prompt in prompts * 3))
        assert [answer.token_ids for answer in together] == cold * 3
        for prompt, expected in zip(prompts, cold, strict=True):
            answer = await client.ask(prompt, 20)
            assert answer.token_ids == expected
            assert answer.finished
            assert answer.finished.timing.reused_tokens >= 30
            assert {usage.prefill_rows for usage in answer.finished.usage} == {len(prompt) - answer.finished.timing.reused_tokens}
        assert await two.open_sequences() == 0


async def test_a_turn_may_take_over_the_answer_before_it_and_spoils_nobody_elses(
    tmp_path: Path, model: tuple[Manifest, ArtifactStore]
) -> None:
    opening = list(range(3, 40))
    async with ring(tmp_path / "cold", *model, 1) as one, one.client() as client:
        answer = (await client.ask(opening, 20)).token_ids
    turn = [*opening, *answer, 5, 6]
    async with ring(tmp_path / "cold again", *model, 1) as one, one.client() as client:
        expected = (await client.ask(turn, 20)).token_ids
    async with ring(tmp_path / "warm", *model, 2) as two, two.client() as client:
        assert (await client.ask(opening, 20)).token_ids == answer
        hurried = await client.ask(turn, 20, reuse_decoded=True)
        assert len(hurried.token_ids) == 20
        assert hurried.finished
        assert hurried.finished.timing.reused_tokens == 56
        patient = await client.ask(turn, 20)
        assert patient.token_ids == expected
        assert patient.finished
        assert patient.finished.timing.reused_tokens == 36
        assert await two.open_sequences() == 0


@pytest.mark.parametrize("stages", [pytest.param(2, marks=pytest.mark.long), 5])
async def test_an_int8_cache_does_not_depend_on_cut_or_company(tmp_path: Path, model: tuple[Manifest, ArtifactStore], stages: int) -> None:
    async with ring(tmp_path / "one", *model, 1, kv_dtype="int8") as one, one.client() as client:
        expected = [(await client.ask(prompt, 20)).token_ids for prompt in PROMPTS]
    async with ring(tmp_path / "many", *model, stages, kv_dtype="int8", chunk=6) as many, many.client() as client:
        together = await asyncio.gather(*(client.ask(prompt, 20) for prompt in PROMPTS * 3))
        assert [answer.token_ids for answer in together] == expected * 3


@pytest.mark.parametrize("wire_dtype", ["float16", "int8"])
async def test_smaller_rows_on_the_wire_do_not_depend_on_company(
    tmp_path: Path, model: tuple[Manifest, ArtifactStore], wire_dtype: str
) -> None:
    async with ring(tmp_path, *model, 3, wire_dtype=wire_dtype) as three, three.client() as client:
        expected = [(await client.ask(prompt, 20)).token_ids for prompt in PROMPTS]
        together = await asyncio.gather(*(client.ask(prompt, 20) for prompt in PROMPTS * 3))
        assert [answer.token_ids for answer in together] == expected * 3


async def test_sampling_repeats_itself(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    async with ring(tmp_path, *model, 2) as two, two.client() as client:
        first = await client.ask(PROMPTS[2], 20, temperature=1.0, seed=7)
        again, other = await asyncio.gather(
            client.ask(PROMPTS[2], 20, temperature=1.0, seed=7), client.ask(PROMPTS[2], 20, temperature=1.0, seed=8)
        )
        assert first.token_ids == again.token_ids != other.token_ids
        replay = await client.ask(PROMPTS[2], 20, forced=first.token_ids[:9], temperature=1.0, seed=7)
        assert replay.token_ids == first.token_ids[9:]
        greedy = await client.ask(PROMPTS[2], 20)
        narrowed = await client.ask(PROMPTS[2], 20, temperature=1.0, seed=7, min_p=1.0)
        assert narrowed.token_ids == greedy.token_ids != first.token_ids


async def test_rules_hold_in_a_ring_and_in_rounds_that_follow_each_other(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    found = []
    for stages in (1, 2):
        async with ring(tmp_path / str(stages), *model, stages) as some, some.client() as client:
            free = (await client.ask(PROMPTS[2], 12)).token_ids
            run = pipeline_pb2.TokenRun(ids=free[3:5])
            often = {"presence_penalty": 2.0, "frequency_penalty": 2.0}
            biased = [pipeline_pb2.TokenBias(id=free[0], bias=-100), pipeline_pb2.TokenBias(id=7, bias=50)]
            barred, late, varied, few, fresh, leant, replay, other = [
                answer.token_ids
                for answer in await asyncio.gather(
                    client.ask(PROMPTS[2], 12, bad_words=[run]),
                    client.ask(PROMPTS[2], 12, stops=free[:1], min_tokens=6),
                    client.ask(PROMPTS[2], 12, repetition_penalty=100.0),
                    client.ask(PROMPTS[2], 12, allowed_token_ids=[3, 4], temperature=1.0, seed=1),
                    client.ask(PROMPTS[2], 12, **often, temperature=1.0, seed=2),
                    client.ask(PROMPTS[2], 12, logit_bias=biased),
                    client.ask(PROMPTS[2], 12, bad_words=[run], forced=free[:4]),
                    client.ask(PROMPTS[2], 12, temperature=1.0, seed=2),
                )
            ]
        assert barred[:4] == free[:4]
        assert barred[4] != free[4]
        assert replay == barred[4:]
        assert len(late) >= 6
        assert free[0] not in late[:6]
        assert len(set(varied)) == 12 > len(set(free))
        assert set(few) == {3, 4}
        assert fresh != other, "without a penalty it would be another text"
        assert leant == [7] * 12
        async with ring(tmp_path / f"{stages} again", *model, stages) as some, some.client() as client:
            assert (await client.ask(PROMPTS[2], 12, **often, temperature=1.0, seed=2, forced=fresh[:5])).token_ids == fresh[5:]
        found.append((barred, late, varied, few, fresh, leant))
    assert found[0] == found[1]


async def test_finished_says_why_and_what_it_cost(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    async with ring(tmp_path, *model, 3) as three, three.client() as client:
        full = await client.ask(PROMPTS[2], 12)
        assert full.finished is not None
        assert full.finished.reason == pipeline_pb2.FINISH_REASON_LENGTH
        assert [usage.stage for usage in full.finished.usage] == [0, 1, 2]
        assert {usage.device_id for usage in full.finished.usage} == {peer.device for peer in three.peers}
        assert all(usage.prefill_rows == 7 and usage.decode_rows == 11 for usage in full.finished.usage)
        timing = full.finished.timing
        assert (timing.prompt_tokens, timing.completion_tokens) == (7, 12)
        assert 0 <= timing.queue_seconds < timing.first_token_seconds < timing.total_seconds
        assert not timing.HasField("modelled_total_seconds")
        stop = full.token_ids[5]
        stopped = await client.ask(PROMPTS[2], 12, stops=[stop])
        assert stopped.token_ids == full.token_ids[: full.token_ids.index(stop)]
        assert stopped.finished is not None
        assert stopped.finished.reason == pipeline_pb2.FINISH_REASON_STOP


async def test_context_is_the_end(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    async with ring(tmp_path, *model, 2, context=40) as two, two.client() as client:
        answer = await client.ask(list(range(1, 34)), 100)
        # The last token told needs no place in the cache.
        assert len(answer.token_ids) == 40 - 33 + 1
        full, other = await asyncio.gather(client.ask(list(range(1, 34)), 100), client.ask(PROMPTS[1], 30))
        assert full.token_ids == answer.token_ids
        assert len(other.token_ids) == 30


async def test_refusals_do_not_harm_others(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    async with ring(tmp_path, *model, 2, context=40) as two, two.client() as client:
        bad = await asyncio.gather(
            client.ask([], 5),
            client.ask(list(range(1, 41)), 5),
            client.ask([10**6], 5),
            client.ask([1], 0, forced=[2]),
            client.ask([1], 3, forced=[2, 3, 4]),
            client.ask([1], 3, temperature=-1.0),
            client.ask([1], 3, min_p=1.5),
            client.ask(PROMPTS[1], 5),
        )
        assert all(isinstance(answer.error, InvalidInput) for answer in bad[:-1])
        assert len(bad[-1].token_ids) == 5


async def test_cancel_and_disconnect_free_everything(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    async with ring(tmp_path, *model, 2, slots=2) as two:
        async with two.client() as client:
            numbers = [await client.start(PROMPTS[2], 100) for _ in range(8)]  # 4 run, 4 wait
            await wait_until(lambda: client.answer(numbers[0]).token_ids)
            for number in numbers:
                await client.cancel(number)
            for number in numbers:
                answer = await client.end(number)
                assert answer.finished is not None
                assert answer.finished.reason == pipeline_pb2.FINISH_REASON_CANCELLED
            assert await two.open_sequences() == 0
            await client.start(PROMPTS[2], 100)
        await two.all_freed()


async def test_a_paused_sequence_stands_still_alone(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    async with ring(tmp_path, *model, 2) as two, two.client() as client:
        expected = (await client.ask(PROMPTS[2], 60)).token_ids
        slow = await client.start(PROMPTS[2], 60)
        await wait_until(lambda: client.answer(slow).token_ids)
        await client.pause(slow, True)
        others = await asyncio.gather(*(client.ask(PROMPTS[2], 60) for _ in range(5)))
        assert [answer.token_ids for answer in others] == [expected] * 5
        assert len(client.answer(slow).token_ids) < 60
        await client.pause(slow, False)
        assert (await client.end(slow)).token_ids == expected


async def test_a_lost_stage_is_told_and_the_ring_is_built_again(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    async with ring(tmp_path, *model, 3) as three, three.client() as client:
        expected = (await client.ask(PROMPTS[2], 20)).token_ids
        number = await client.start(PROMPTS[2], 100)
        await wait_until(lambda: client.answer(number).token_ids)
        await client.pause(number, True)
        await three.agents[2].__aexit__(None, None, None)
        lost = await client.end(number)
        assert isinstance(lost.error, Unavailable)
        # The news comes on whichever way is quicker: from the stage before the lost one, or from the lost one itself.
        assert any(peer.device in lost.error.detail for peer in three.peers[1:])
        again = await client.ask(PROMPTS[2], 20)
        assert isinstance(again.error, Unavailable)
        assert three.peers[2].device in again.error.detail
        assert await three.open_sequences([0, 1]) == 0
        await three.restart(2)
        assert (await client.ask(PROMPTS[2], 20)).token_ids == expected


async def test_the_end_of_the_way_back_names_the_last_stage(
    tmp_path: Path, model: tuple[Manifest, ArtifactStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way forward is deaf here, so the other one is heard."""

    async def deaf(self: Head, link: Link) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Head, "_watch_link", deaf)
    async with ring(tmp_path, *model, 3) as three, three.client() as client:
        number = await client.start(PROMPTS[2], 100)
        await wait_until(lambda: client.answer(number).token_ids)
        await client.pause(number, True)
        await three.agents[1].__aexit__(None, None, None)
        lost = await client.end(number)
        assert isinstance(lost.error, Unavailable)
        assert f"stage 2 on {three.peers[2].device}: it ended its stream to the head" in lost.error.detail


async def test_who_leaves_while_the_link_is_closed_leaves_nothing_behind(
    tmp_path: Path, model: tuple[Manifest, ArtifactStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, may_close, leave = asyncio.Event(), asyncio.Event(), Link.__aexit__

    async def slow_to_close(self: Link, *error: Any) -> None:
        if self._open.to_stage == 1:
            closing.set()
            await may_close.wait()
        await leave(self, *error)

    async with ring(tmp_path, *model, 2) as two:
        async with two.client() as client:
            expected = (await client.ask(PROMPTS[2], 8)).token_ids
            number = await client.start(PROMPTS[2], 100)
            await wait_until(lambda: client.answer(number).token_ids)
            await client.pause(number, True)
            monkeypatch.setattr(Link, "__aexit__", slow_to_close)
            leaving = asyncio.create_task(two.agents[1].__aexit__(None, None, None))
            await closing.wait()
        await asyncio.sleep(0.2)  # until the head has seen that the client left
        may_close.set()
        await leaving
        await two.restart(1)
        async with two.client() as client:
            after = await client.ask(PROMPTS[2], 8)
        assert (after.error, after.token_ids) == (None, expected)


async def test_streams_of_another_epoch_or_pipeline_are_refused(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    async with ring(tmp_path, *model, 2) as two:
        for change, error in (({"epoch": 2}, Conflict), ({"pipeline_id": "x"}, NotFound), ({"manifest_digest": "0" * 64}, Conflict)):
            attach = pipeline_pb2.Attach()
            attach.CopyFrom(two.attach)
            for name, value in change.items():
                setattr(attach, name, value)
            client = Client(two.peers[0], attach)
            with pytest.raises(error):
                await client.attach()
            await client.close()
