"""A model whose bytes are wrong though every digest is right: no device serves it."""

from __future__ import annotations

import pytest

from quantize.artifact.store import ArtifactStore
from tests.support.corruption import flip_bit
from tests.support.processes import Glmfleet


@pytest.mark.parametrize("stages", [pytest.param(1, marks=pytest.mark.long), 3])
def test_it_is_refused_with_the_layer_named(fleet: Glmfleet, stages: int) -> None:
    store = ArtifactStore(fleet.home / "artifacts")
    store.save("damaged", flip_bit(store, store.load("tiny"), "layers.3", "o.scales", element=7, bit=30))
    assert fleet("model", "sign", "damaged").returncode == 0  # by whoever made it: a signature does not make bytes right
    done = fleet("deploy", "damaged", "--stages", stages)
    assert done.returncode == 1
    assert "layer 3 of layers [" in done.stderr
    assert "gives other rows than its import recorded" in done.stderr
    assert "Traceback" not in done.stderr
    assert '"damaged"' not in fleet("devices", "--json").stdout
