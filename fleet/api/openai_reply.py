"""OpenAI's reply bodies: whole answers and the chunks of a stream, each with its choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.answering.views import GenerateResult, TokenChunk
from fleet.api.openai_choices import Choice
from fleet.deploying.views import DeploymentView

DONE = "[DONE]"


@dataclass
class Reply:
    """Bodies of one answer with one choice or several; `created` is in unix seconds.

    `kind` and `chunk_kind` are the objects' names. Each prompt has `choices_of_prompt` of the choices, one after the other.
    """

    id: str
    kind: str
    chunk_kind: str
    created: int
    model: str
    choices: Sequence[Choice]
    choices_of_prompt: int = 1
    include_usage: bool = False

    def whole(self, results: Sequence[GenerateResult]) -> dict[str, Any]:
        """`results` are of the choices, in their order."""
        choices = [choice.whole(result) for choice, result in zip(self.choices, results, strict=True)]
        return {**self._head(self.kind), "choices": choices, "usage": usage_of(results, self.choices_of_prompt)}

    def opening(self) -> list[dict[str, Any]]:
        return [self._chunk(one) for choice in self.choices for one in choice.opening()]

    def piece(self, index: int, chunk: TokenChunk) -> list[dict[str, Any]]:
        return [self._chunk(one) for one in self.choices[index].piece(chunk)]

    def closing(self, index: int, result: GenerateResult) -> list[dict[str, Any]]:
        return [self._chunk(one) for one in self.choices[index].closing(result)]

    def ending(self, results: Sequence[GenerateResult]) -> list[dict[str, Any]]:
        """Behind the last choice's end."""
        return (
            [{**self._head(self.chunk_kind), "choices": [], "usage": usage_of(results, self.choices_of_prompt)}]
            if self.include_usage
            else []
        )

    def _chunk(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        tail = {"usage": None} if self.include_usage else {}
        return {**self._head(self.chunk_kind), "choices": [choice], **tail}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage_of(results: Sequence[GenerateResult], answers_of_prompt: int = 1) -> dict[str, Any]:
    """A prompt counts once, however many answers it has: each has `answers_of_prompt`, one after the other.

    Beyond OpenAI's: the seconds that the longest took, and the energy of all by how it is known; figures that are known in different
    ways are never added.
    """
    prompts = results[::answers_of_prompt]
    prompt, completion = sum(one.prompt_tokens for one in prompts), sum(one.completion_tokens for one in results)
    joules: dict[str, float | None] = {}
    for cost in (cost for result in results for cost in result.devices):
        so_far = joules.get(cost.source, 0.0)
        joules[cost.source] = None if cost.joules is None or so_far is None else so_far + cost.joules
    drafted = sum(one.drafted_tokens for one in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(one.reused_tokens for one in prompts)},
        **({"drafts": {"drafted": drafted, "accepted": sum(one.accepted_tokens for one in results)}} if drafted else {}),
        "seconds": max(one.total_seconds for one in results),
        "energy": [{"joules": value, "source": source} for source, value in joules.items()],
    }


def model_entry(deployment: DeploymentView) -> dict[str, Any]:
    """OpenAI's model object of a deployment; `created` is not known and 0."""
    return {"id": deployment.name, "object": "model", "created": 0, "owned_by": "glmfleet"}
