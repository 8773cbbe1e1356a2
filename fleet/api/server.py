"""The HTTP server of the coordinator: uvicorn with our bounds, and with TLS that can be renewed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvicorn

from fleet.api.connections import Door
from fleet.api.guard import HEAD_BYTES

DRAIN_SECONDS = 2  # what open answers get to end after a signal, before they are cancelled


class Server(uvicorn.Server):
    """Without uvicorn's own signal handling: it would raise the signal again, after which nothing of ours could be closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(app: Any, door: Door, *, drain_seconds: int = DRAIN_SECONDS) -> Server:
    """For `serve(sockets=[...])`. TLS is the door's, not uvicorn's: that would count no connection before its handshake is done."""
    config = uvicorn.Config(
        app,
        http=cast(Any, door),
        h11_max_incomplete_event_size=HEAD_BYTES,
        proxy_headers=False,  # whoever asks from this machine could say to be somebody else
        server_header=False,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=drain_seconds,
    )
    return Server(config)
