"""Plans for deployments that decode by pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.planning.plan import PlanRequest
from fleet.planning.planner import plan
from fleet.planning.standby import with_standbys
from protos.errors import InvalidInput
from tests.fleet.planning.test_planner import a_device, a_model


def test_pairs_are_planned_on_devices_that_know_them_and_cost_a_second_row() -> None:
    devices = [replace(a_device(1), decodes_pairs=False), a_device(2)]
    rows, pairs = plan(a_model(), devices[1:], PlanRequest("m")), plan(a_model(), devices, PlanRequest("m", decode="pairs"))
    assert (pairs.decode, [stage.device_name for stage in pairs.stages]) == ("pairs", ["dev-2"])
    assert 0.5 < pairs.decode_tokens_per_second / rows.decode_tokens_per_second < 1.0
    assert any("runs of two rows" in line for line in pairs.why)
    with pytest.raises(InvalidInput, match="release before"):
        plan(a_model(), devices[:1], PlanRequest("m", decode="pairs"))
    both_ways = a_model()
    both_ways = replace(both_ways, config=replace(both_ways.config, prefix_whole=True))
    with pytest.raises(InvalidInput, match="both directions"):
        plan(both_ways, devices, PlanRequest("m", decode="pairs"))


def test_a_device_of_the_release_before_stands_by_for_no_pairs() -> None:
    spare = replace(a_device(3), keeps_standbys=True, decodes_pairs=False)
    for decode, standbys in (("rows", 1), ("pairs", 0)):
        made = plan(a_model(), [a_device(1)], PlanRequest("m", decode=decode))  # type: ignore[arg-type]
        assert len(with_standbys(a_model(), [made], [spare], 1)[0].standbys) == standbys
