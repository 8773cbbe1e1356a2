from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.network import Network


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Hosts for one test; skips it where they cannot be made."""
    with Network(tmp_path) as made:
        yield made
