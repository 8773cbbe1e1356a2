"""The fleets that come along start: one device of each kind, behind its links."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sim_devices.fleet_file import gallery, gallery_text, parse_fleet
from tests.support.processes import Glmfleet, processes_naming


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "street" else pytest.mark.long) for name in gallery()])
def test_a_fleet_of_the_gallery_starts(name: str, tmp_path: Path) -> None:
    whole = gallery_text(name)
    # Faults name devices by number, and are read with the whole file (tests/sim_devices/test_fleet_file.py).
    small = re.sub(r"(?m)^count = \d+$", "count = 1", re.sub(r"(?ms)^\[\[faults\]\].*", "", whole)).replace("pi-2", "pi-1")
    path = tmp_path / f"{name}.toml"
    path.write_text(small)
    glmfleet = Glmfleet(tmp_path / "home")
    try:
        up = glmfleet("sim", "up", path, "--json")
        assert up.returncode == 0, up.stderr
        described = {device.name: device for device in parse_fleet(name, small).devices}
        assert len(described) > 1 or name == "rack"
        for device in json.loads(up.stdout):
            wanted = described.pop(device["name"])
            assert (device["profile"], device["labels"]) == (wanted.profile, wanted.labels)
            assert device["ambient_celsius"] == wanted.ambient_celsius
            assert device["linked"]
        assert not described
    finally:
        down = glmfleet("sim", "down", "--purge")
    assert down.returncode == 0, down.stderr
    assert processes_naming(str(tmp_path)) == []
