"""Streams that are asked for again by a client that lost its connection, and go on where they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Header

from fleet.answering.views import GenerateRequest
from protos.errors import InvalidInput

KEY_CHARACTERS = 255


@dataclass(frozen=True)
class Resumed:
    """`key` names the request; its client has `tokens` of the answer already."""

    key: str
    tokens: int

    def of(self, request: GenerateRequest) -> GenerateRequest:
        return replace(request, idempotency_key=self.key, resume_after=self.tokens)

    def of_each(self, requests: Sequence[GenerateRequest]) -> list[GenerateRequest]:
        """Several answers of one request have a seed each. Raises InvalidInput for several that are to be resumed."""
        if len(requests) > 1 and self.tokens:
            raise InvalidInput("several answers at once cannot be resumed", advice="ask for one, or for all of them anew")
        if len(requests) == 1 or not self.key:
            return [self.of(request) for request in requests]
        return [replace(request, idempotency_key=f"{self.key}#{number}") for number, request in enumerate(requests)]


def resumed_by(
    idempotency_key: Annotated[str, Header(max_length=KEY_CHARACTERS)] = "",
    last_event_id: Annotated[int, Header(ge=0, lt=1 << 32)] = 0,
) -> Resumed:
    """A dependency of routes that stream an answer. The same key gives the same answer, by whichever coordinator of the fleet it is
    computed: its sampling's seed is made from it. `Last-Event-ID` is the id of the last event that came."""
    return Resumed(idempotency_key, last_event_id)
