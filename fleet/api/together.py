"""Several answers at once, their parts as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from fleet.answering.views import GenerateRequest, GenerateResult, TokenChunk
from fleet.api.closing import closing
from fleet.service.protocol import FleetService
from protos.errors import Internal

Part = TokenChunk | GenerateResult


MOST_AT_ONCE = 16  # of one client's answers: each holds a slot of the pipeline


async def together(fleet: FleetService, requests: Sequence[GenerateRequest]) -> AsyncGenerator[tuple[int, Part]]:
    """(which request, part of its answer), of MOST_AT_ONCE at a time. The first error ends all; leaving early cancels all. None runs ahead
    of who takes the parts by more than a part."""
    if len(requests) == 1:
        async with closing(fleet.generate(requests[0])) as parts:
            async for part in parts:
                yield 0, part
        return
    ready: asyncio.Queue[tuple[int, Part]] = asyncio.Queue(1)

    room = asyncio.Semaphore(MOST_AT_ONCE)

    async def answer(index: int, request: GenerateRequest) -> None:
        async with room, closing(fleet.generate(request)) as parts:
            async for part in parts:
                await ready.put((index, part))

    tasks = {asyncio.create_task(answer(index, one), name=f"choice {index}") for index, one in enumerate(requests)}
    try:
        running = set(tasks)
        while running or not ready.empty():
            taking = asyncio.create_task(ready.get(), name="next part")
            try:
                await asyncio.wait({taking, *running}, return_when=asyncio.FIRST_COMPLETED)
                if taking.done():
                    yield taking.result()
            finally:
                taking.cancel()
            for task in [one for one in running if one.done()]:
                running.discard(task)
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def results(fleet: FleetService, requests: Sequence[GenerateRequest]) -> list[GenerateResult]:
    """The whole answers."""
    found: dict[int, GenerateResult] = {}
    async with closing(together(fleet, requests)) as parts:
        async for index, part in parts:
            if isinstance(part, GenerateResult):
                found[index] = part
    if len(found) < len(requests):
        raise Internal("a generation ended without a result")
    return [found[index] for index in range(len(requests))]
