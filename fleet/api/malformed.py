"""Requests that are not HTTP, told as all errors are: uvicorn alone answers them, in plain text."""

from __future__ import annotations

import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from fleet.api.errors import fleet_body
from protos.errors import InvalidInput


class HttpProtocol(H11Protocol):
    """uvicorn's, for its setting `http`."""

    def send_400_response(self, msg: str) -> None:
        error = InvalidInput(
            "what came is not HTTP, or its head is too long", advice="in an address, write other characters than ASCII as %XX"
        )
        body = json.dumps(fleet_body(error)).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
