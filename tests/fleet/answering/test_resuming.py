"""An answer that is asked for again goes on where its client has it, by whichever coordinator computes it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fleet.answering.course import seed_of
from fleet.answering.views import GenerateRequest, TokenChunk
from fleet.service.coordinator import Coordinator
from protos.errors import InvalidInput
from protos.sampling import Sampling
from tests.support.fake_fleet import ask, fake_fleet

WARM = Sampling(temperature=1.0)


def never() -> int:
    raise AssertionError("nothing is drawn")


def test_the_same_key_is_the_same_seed() -> None:
    keyed = GenerateRequest(prompt="hi", sampling=WARM, idempotency_key="a key")
    # Fixed: another coordinator, of this release or the next, has to find the same.
    assert seed_of(keyed, never) == 7073162053547410336
    assert seed_of(dataclasses.replace(keyed, prompt="another"), never) == seed_of(keyed, never)
    assert seed_of(dataclasses.replace(keyed, idempotency_key="another"), never) != seed_of(keyed, never)
    assert seed_of(dataclasses.replace(keyed, sampling=Sampling(seed=5)), never) == 5
    assert seed_of(GenerateRequest(prompt="hi", sampling=WARM), lambda: 9) == 9


def test_what_was_sampled_by_chance_cannot_be_resumed() -> None:
    lost = GenerateRequest(prompt="hi", sampling=WARM, resume_after=3)
    with pytest.raises(InvalidInput, match="Idempotency-Key"):
        seed_of(lost, lambda: 9)
    assert seed_of(dataclasses.replace(lost, sampling=Sampling()), lambda: 9) == 9  # greedy


async def read(coordinator: Coordinator, request: GenerateRequest) -> tuple[list[TokenChunk], tuple[int, ...]]:
    chunks, result = await ask(coordinator, request)
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert tuple(one for chunk in chunks for one in chunk.token_ids) == result.token_ids
    return chunks, result.token_ids


@pytest.mark.parametrize("forced", [(), (72, 195, 164, 33)])
async def test_a_chunk_ends_where_the_client_was(tmp_path: Path, forced: tuple[int, ...]) -> None:
    async with fake_fleet(tmp_path) as fleet, fleet.deployed() as coordinator:
        asked = GenerateRequest(prompt="hi", max_tokens=12, ignore_eos=True, forced_ids=forced, sampling=WARM, idempotency_key="a key")
        chunks, tokens = await read(coordinator, asked)
        ends = [sum(len(chunk.token_ids) for chunk in chunks[: number + 1]) for number in range(len(chunks))]
        for end in ends:
            again, same = await read(coordinator, dataclasses.replace(asked, resume_after=end))
            assert same == tokens
            reached = 0
            text = ""
            for chunk in again:
                if reached >= end:
                    text += chunk.text
                else:
                    assert reached + len(chunk.token_ids) <= end
                reached += len(chunk.token_ids)
            assert text == "".join(chunk.text for chunk in chunks[ends.index(end) + 1 :])
        seeds = {submit.sampling.seed for submit in fleet.devices[0].submitted}
        assert len(seeds) == 1
