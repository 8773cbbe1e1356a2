"""A fleet whose store of artifacts is in other hands: devices run what the publisher vouches for, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fleet.planning.plan import PlanRequest
from fleet.trust.publisher import Publisher
from protos.errors import Denied
from tests.support.fake_fleet import ask
from tests.support.proxied_fleet import LONG, ProxiedFleet, proxied_fleet
from tests.support.waiting import wait_until


async def deploy(fleet: ProxiedFleet, model: str, name: str) -> None:
    async for _ in fleet.coordinator.deploy(PlanRequest(model, stages=2), name):
        pass


async def test_what_somebody_put_into_the_store_runs_nowhere(tmp_path: Path) -> None:
    async with proxied_fleet(tmp_path, 2) as fleet:
        store = fleet.coordinator._artifacts
        await wait_until(lambda: all((box.state / "publishers" / "keys.json").exists() for box in fleet.boxes))
        await deploy(fleet, "tiny", "first")
        (_, answer), manifest = await ask(fleet.coordinator, LONG), store.load("tiny")
        evil = dataclasses.replace(manifest, provenance=dataclasses.replace(manifest.provenance, notice="mine"))
        store.save("evil", evil)
        with pytest.raises(Denied, match="no publisher vouches for artifact") as caught:
            await deploy(fleet, "evil", "second")
        assert "glmfleet model sign" in caught.value.advice
        # In the place of one that is signed, with its signature left or removed.
        store.save("tiny", evil)
        for _ in range(2):
            with pytest.raises(Denied, match="no publisher vouches"):
                await deploy(fleet, "tiny", "second")
            store.signature_path("tiny").unlink(missing_ok=True)
        assert [view.state for view in fleet.coordinator.deployments()] == ["ready"]
        assert (await ask(fleet.coordinator, LONG))[1].token_ids == answer.token_ids

        # Its owner may run it all the same.
        Publisher.open(tmp_path / "home" / "publisher", store).sign("evil")
        await deploy(fleet, "evil", "second")
        assert (await ask(fleet.coordinator, dataclasses.replace(LONG, model="second")))[1].token_ids == answer.token_ids
