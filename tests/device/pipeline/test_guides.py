"""Answers that keep to a grammar, in rings of real agents: for any cut, beside others, again in a replay, and what is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from device.grammar import Grammars, Matcher
from device.pipeline.guides import Guides
from protos.errors import InvalidInput
from protos.manifest import Manifest
from protos.v1 import pipeline_pb2 as pb
from quantize.artifact.store import ArtifactStore
from tests.support.checkpoints import TinyGlm
from tests.support.grammars import BYTES, END, LARK, lark, told
from tests.support.ring import Answer, Client, ring, tiny_model

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "age", "ok"],
    "additionalProperties": False,
}
PROMPT = [5, 6, 7, 8, 9, 10, 11]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ArtifactStore]:
    return tiny_model(tmp_path_factory.mktemp("model"), TinyGlm(layers=3))


def ask(client: Client, grammar: str = lark(SCHEMA), seed: int = 1, **how: Any) -> Any:
    return client.ask(PROMPT, 100, stops=[END, END + 1], grammar=grammar, temperature=1.0, seed=seed, **how)


def read(answer: Answer) -> Any:
    assert answer.error is None, answer.error
    assert answer.finished
    assert answer.finished.reason == pb.FINISH_REASON_STOP
    return json.loads(bytes(answer.token_ids).decode())


async def test_whatever_the_cut_and_the_company_answers_fit_and_are_the_same(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    found = []
    for stages in (1, 3):
        async with ring(tmp_path / str(stages), *model, stages) as some, some.client() as client:
            free = await client.ask(PROMPT, 20)
            await client.tell(told())
            answers, beside = await asyncio.gather(asyncio.gather(*(ask(client, seed=seed) for seed in range(12))), client.ask(PROMPT, 20))
            assert beside.token_ids == free.token_ids, "a neighbour's text is its own"
            for answer in answers:
                value = read(answer)
                assert value.keys() == SCHEMA["properties"].keys()  # type: ignore[attr-defined]
                assert 0 <= value["age"] <= 99
                assert len(value["name"]) <= 6
            half = len(answers[3].token_ids) // 2
            replay = await ask(client, seed=3, forced=answers[3].token_ids[:half])
            assert replay.token_ids == answers[3].token_ids[half:]
            rules: Any = {"frequency_penalty": 1.0, "logit_bias": [pb.TokenBias(id=ord("x"), bias=20)], "min_tokens": 5, "logprobs": 1}
            others = await ask(client, **rules)
            assert "x" in read(others)["name"]
            found.append(([answer.token_ids for answer in answers], others.token_ids, others.logprobs))
            assert await some.open_sequences() == 0
    assert found[0] == found[1]


async def test_what_cannot_be_kept_is_told_to_its_own_client_alone(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    async with ring(tmp_path, *model, 2) as two, two.client() as client:
        early = await ask(client)
        assert isinstance(early.error, InvalidInput)
        await client.tell(told())
        wild, unfit, good = await asyncio.gather(
            ask(client, f"{LARK}start: nothing"),
            ask(client, forced=[*b"no"]),
            ask(client),
        )
        for answer in (wild, unfit):
            assert isinstance(answer.error, InvalidInput)
            assert "the answer's format cannot be kept" in answer.error.detail
            assert answer.token_ids == []
        read(good)
        number = await client.start(PROMPT, 100, stops=[END], grammar=lark(SCHEMA))
        await client.cancel(number)
        assert (await client.end(number)).error is None
        assert await two.open_sequences() == 0


def guides() -> Guides:
    made = Guides(len(BYTES.tokens))
    for message in told():
        made.learn(message.vocabulary)
    return made


def test_a_grammar_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    compile_ = Grammars.compile

    def counted(grammars: Grammars, text: str) -> Matcher:
        texts.append(text)
        return compile_(grammars, text)

    monkeypatch.setattr(Grammars, "compile", counted)
    made = guides()
    one, other = made.guide(lark(SCHEMA)), made.guide(lark(SCHEMA))
    assert (one.fitting([*b"{"]) == other.fitting([*b"{"])).all()
    for number in range(20):
        made.guide(f'{LARK}start: "{number}"').check()
    made.guide(lark(SCHEMA)).check()
    assert len(texts) == 22, "after many others it is compiled again"
    made.close()


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (pb.Vocabulary(first=5, tokens=[b"a"]), "goes on at 5, not at 0 of 272"),
        (pb.Vocabulary(tokens=[b"a"] * 273), "goes on at 0"),
        (pb.Vocabulary(tokens=[b"a" * (1 << 25), b"a"]), "more than 32 MiB"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(part: pb.Vocabulary, why: str) -> None:
    made = Guides(272)
    with pytest.raises(InvalidInput, match=why):
        made.learn(part)
    with pytest.raises(InvalidInput, match="before the vocabulary"):
        made.guide(lark(SCHEMA))
    made.close()
