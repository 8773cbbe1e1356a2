"""A gateway whose certificate ends while it runs."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from fleet.trust.authority import Authority


@pytest.mark.long
async def test_it_does_not_go_on_where_nobody_can_connect_to_it(tmp_path: Path) -> None:
    Authority.open(tmp_path / "authority", life=timedelta(seconds=6)).issue_folder(tmp_path / "gate", "gateway", "gate")
    command = ["-m", "sim_devices.hollow", "--state", str(tmp_path / "gate"), "--name", "gate", "--count", "1", "--profile", "rk3588"]
    gateway = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(gateway.communicate(), 40)
    ready, end = (json.loads(line) for line in out.splitlines())
    assert ready["name"] == "gate"
    assert end["detail"] == "the gateway's certificate has expired: nobody can connect to it"
    assert gateway.returncode == 1
