"""What a head tells of a request beside the tokens of its answer."""

from __future__ import annotations

from dataclasses import dataclass

from protos.errors import InvalidInput
from protos.v1 import pipeline_pb2 as pb

MOST_LOGPROBS = 20  # likeliest tokens that are told of beside the one that came, as OpenAI has it


@dataclass(frozen=True)
class Told:
    """What is told beside the tokens of an answer: log probabilities with those of so many likeliest (None: none), the embedding."""

    logprobs: int | None = None  # of each token of the answer
    prompt_logprobs: int | None = None  # of each of the prompt, but for its first
    embedding: bool = False  # of the prompt

    @property
    def of_prompt(self) -> bool:
        """All rows of the prompt are wanted, and not the last alone."""
        return self.embedding or self.prompt_logprobs is not None

    def check(self) -> None:
        """Raises InvalidInput for more than are told."""
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(self, name)
            if count is not None and not 0 <= count <= MOST_LOGPROBS:
                raise InvalidInput(
                    f"{name} is {count}: it must be at least 0 and at most {MOST_LOGPROBS}", advice="ask for fewer, or leave it out"
                )


TOKENS_ALONE = Told()


def told_from_message(message: pb.Sampling) -> Told:
    """Raises InvalidInput."""
    counts = {name: getattr(message, name) for name in ("logprobs", "prompt_logprobs") if message.HasField(name)}
    told = Told(**counts, embedding=message.embedding)
    told.check()
    return told
