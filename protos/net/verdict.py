"""How the far side ended a call with a stream of requests, kept from being overwritten."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import grpc
import grpc.aio

from protos.rpc_errors import ENDED_UNDER_A_WRITE


class Verdict:
    """The status of a call as the far side told it.

    A write that finds the call ended puts Internal over the status in grpc.aio (1.85, `set_internal_error`): the reason would be lost.
    """

    def __init__(self, call: grpc.aio.Call) -> None:
        """Right after the call is made."""
        self._told: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._note)

    def on(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What to raise for `error`: the far side's own status, when it was overwritten."""
        return self._told if self._told is not None and error.details() == ENDED_UNDER_A_WRITE else error

    def _note(self, call: Any) -> None:
        code, details, initial, trailing = (
            _ready(ask()) for ask in (call.code, call.details, call.initial_metadata, call.trailing_metadata)
        )
        if self._told is None and details != ENDED_UNDER_A_WRITE and isinstance(code, grpc.StatusCode) and code is not grpc.StatusCode.OK:
            self._told = grpc.aio.AioRpcError(code, initial or grpc.aio.Metadata(), trailing or grpc.aio.Metadata(), details)


def _ready(answer: Coroutine[Any, Any, Any]) -> Any:
    """The value of a coroutine that need not wait, as those of a call that is done; None if it had to."""
    try:
        answer.send(None)
    except StopIteration as done:
        return done.value
    answer.close()
    return None
