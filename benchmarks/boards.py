"""A fleet of simulated boards, each a process, in a home that is thrown away; the models are those of the user's home."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fleet.cli.client import CoordinatorClient
from fleet.cli.sim_fleet import local_fleet
from fleet.deploying.desired import DEFAULT_POLICY, Policy
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from sim_devices.local_fleet import LocalFleet


@contextmanager
def throwaway_boards() -> Iterator[tuple[Home, LocalFleet]]:
    """The home and a fleet without a board yet; at the end its boards are ended and the home is gone."""
    artifacts = Home.open(None).artifacts
    with tempfile.TemporaryDirectory() as folder:
        home = Home.open(Path(folder) / "home")
        home.artifacts.symlink_to(artifacts.resolve(), target_is_directory=True)
        boards = local_fleet(home)
        try:
            yield home, boards
        finally:
            boards.down()


def deploy(
    client: CoordinatorClient, request: PlanRequest, name: str | None = None, replicas: int = 1, policy: Policy = DEFAULT_POLICY
) -> None:
    """Returns when the deployment is ready. Raises FleetError."""
    with closing(client.deploy(request, name, replicas, policy)) as events:
        for _ in events:
            pass
