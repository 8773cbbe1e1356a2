from __future__ import annotations

import pytest

from protos.errors import InvalidInput
from protos.sampling import GREEDY, to_message
from protos.told import TOKENS_ALONE, Told, told_from_message
from protos.v1 import pipeline_pb2 as pb


@pytest.mark.parametrize(
    ("told", "of_prompt"),
    [(TOKENS_ALONE, False), (Told(logprobs=0), False), (Told(logprobs=20, prompt_logprobs=0), True), (Told(embedding=True), True)],
)
def test_what_is_asked_for_arrives(told: Told, of_prompt: bool) -> None:
    assert told_from_message(to_message(GREEDY, told=told)) == told
    assert told.of_prompt is of_prompt


def test_a_head_that_tells_tokens_alone_is_asked_as_before() -> None:
    assert to_message(GREEDY, told=TOKENS_ALONE) == pb.Sampling()


@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
def test_more_than_are_told_are_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^{name} is 21: it must be at least 0 and at most 20$"):
        told_from_message(pb.Sampling(logprobs=21) if name == "logprobs" else pb.Sampling(prompt_logprobs=21))
