from __future__ import annotations

import pytest

from protos.net import transport


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.cpu.copy_bandwidth", lambda: 1.0)


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that is silent is given up after 1.3 s instead of 15: less, and a busy machine breaks links that work."""
    quick = {
        "grpc.keepalive_time_ms": 300,
        "grpc.keepalive_timeout_ms": 1_000,
        "grpc.http2.ping_timeout_ms": 1_000,
        "grpc.http2.min_ping_interval_without_data_ms": 50,
        "grpc.http2.min_recv_ping_interval_without_data_ms": 50,
    }
    for name in ("_CLIENT", "_SERVER"):
        options = {**dict(getattr(transport, name)), **quick}
        monkeypatch.setattr(transport, name, list(options.items()))
