"""Many answers of one client's request: so many at a time, in their order, and all of them ended by an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from fleet.answering.views import GenerateRequest, GenerateResult, TokenChunk
from fleet.api.together import MOST_AT_ONCE, results
from protos.errors import Unavailable
from tests.support.fake_coordinator import RESULT, FakeCoordinator


class Counting(FakeCoordinator):
    """Counts the answers that are open; the request with the text `fails` does."""

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.open = self.most = 0
        self.fails = fails

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk | GenerateResult]:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            if request.text == self.fails:
                raise Unavailable("lost")
            yield replace(RESULT, text=request.text or "")
        finally:
            self.open -= 1


REQUESTS = [GenerateRequest(text=str(number)) for number in range(3 * MOST_AT_ONCE)]


async def test_so_many_run_at_a_time_and_come_in_their_order() -> None:
    fleet = Counting()
    assert [result.text for result in await results(fleet, REQUESTS)] == [request.text for request in REQUESTS]
    assert (fleet.most, fleet.open) == (MOST_AT_ONCE, 0)


async def test_an_error_of_one_ends_all() -> None:
    fleet = Counting(fails="20")
    with pytest.raises(Unavailable, match="lost"):
        await results(fleet, REQUESTS)
    assert fleet.open == 0
