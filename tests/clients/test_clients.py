"""Each real client does against a real fleet what the table in docs/clients.md says; skipped where `make clients` has installed none."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.clients.table import CLIENTS, RESULTS
from tests.support.served_fleet import served_fleet


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_finds_what_is_told_of_it(name: str, tmp_path: Path) -> None:
    client = CLIENTS[name]
    if not client.is_installed:
        pytest.skip("not installed: make clients")
    async with served_fleet(tmp_path / "fleet") as url:
        found = await asyncio.to_thread(client.run, url, tmp_path)
    told = json.loads(RESULTS.read_text())[name]
    assert found == {feature: what for feature, what in told.items() if feature != "version"}
