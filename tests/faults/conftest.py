from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)
