"""A device that is there and does not hold its stage any more: noticed by the first request, loaded again, and the request is answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fleet.answering.views import GenerateRequest
from protos.ids import PipelineId
from protos.v1 import device_pb2
from tests.support.fake_fleet import ask, deploy, wait_ready
from tests.support.proxied_fleet import proxied_fleet

SHORT = GenerateRequest(prompt_ids=(3, 1, 4, 1, 5), max_tokens=8)


@pytest.mark.parametrize("which", [0, 1], ids=["head", "last"])
async def test_a_stage_that_is_lost_while_nobody_asks_is_loaded_again(tmp_path: Path, which: int) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        await deploy(fleet.coordinator, 2)
        expected = (await ask(fleet.coordinator, SHORT))[1].token_ids
        [view] = fleet.coordinator.deployments()
        client = fleet.coordinator._registry.client(fleet.boxes[which].device)
        generation = device_pb2.Generation(deployment=view.name, number=view.generation)
        await client.unload_stage(generation, PipelineId(view.pipelines[0].pipeline_id))
        await asyncio.sleep(0.5)  # the ring's streams have ended
        async with asyncio.timeout(20):
            assert await fleet.answer(SHORT) == expected
            await wait_ready(fleet.coordinator)
            assert (await ask(fleet.coordinator, SHORT))[1].token_ids == expected
