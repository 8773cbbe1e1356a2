"""A device that is given away, as its owner does it: with the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.processes import Glmfleet, wait_for


@pytest.mark.long
def test_a_device_that_is_removed_forgets_and_asks_to_join_anew(tmp_path: Path) -> None:
    glmfleet = Glmfleet(tmp_path / "home")
    folder = tmp_path / "home" / "sim" / "dev-1"
    checkpoint = write_checkpoint(tmp_path / "checkpoint", TinyGlm(layers=2))
    assert glmfleet("model", "import", checkpoint, "--name", "tiny").returncode == 0
    assert glmfleet("sim", "up", "--devices", 1).returncode == 0
    try:
        with glmfleet.serving():
            wait_for(lambda: glmfleet.states() == {"dev-1": "online"}, 20)
            assert glmfleet("deploy", "tiny").returncode == 0
            assert any((folder / "blobs").iterdir())
            refused = glmfleet("devices", "remove", "dev-1")
            assert refused.returncode == 1
            assert "dev-1 is used by tiny" in refused.stderr
            [before] = json.loads(glmfleet("devices", "--json").stdout)
            removed = glmfleet("devices", "remove", "dev-1", "--force")
            assert removed.returncode == 0, removed.stderr
            assert "it removes its models and its key" in removed.stderr
            wait_for(lambda: json.loads(glmfleet("devices", "pending", "--json").stdout) != [], 20)
            [asking] = json.loads(glmfleet("devices", "pending", "--json").stdout)
            assert asking["device_id"] != before["device_id"]
            assert not (folder / "blobs").exists()
            assert glmfleet("devices", "accept", "dev-1").returncode == 0
            wait_for(lambda: glmfleet.states() == {"dev-1": "online"}, 20)
            [after] = json.loads(glmfleet("devices", "--json").stdout)
            assert after["device_id"] == asking["device_id"]
            revoked = glmfleet("devices", "revoke", "dev-1")
            assert "its key opens nothing any more" in revoked.stderr
            assert glmfleet.states() == {}
    finally:
        glmfleet("sim", "down")
