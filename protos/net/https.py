"""HTTPS to a coordinator that is known by its fleet's authority, whatever the address is called: for whoever has no other HTTP client."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

from protos.errors import Denied, FleetError, Internal, TimedOut, Unavailable, by_name
from protos.ids import FleetId, api_host_name
from protos.net.transport import split_address

SECONDS = 10.0
MOST_BYTES = 64 << 10  # of an answer
_NOT_YET_VALID, _EXPIRED = 9, 10  # OpenSSL's X509_V_ERR_...


def unverified() -> ssl.SSLContext:
    """For asking who somebody is: what comes has to prove itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def pinned(authority_der: bytes) -> ssl.SSLContext:
    """For servers with a certificate of this authority, and of no other. DER: in a PEM text a second authority may stand behind the one
    that somebody has looked at. Raises Denied when it is no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=authority_der)
    except ssl.SSLError as error:
        raise Denied("what was shown as the fleet's authority is no certificate") from error
    return context


def ask(
    address: str,
    method: str,
    path: str,
    *,
    context: ssl.SSLContext,
    fleet: FleetId | None,
    key: str = "",
    body: Mapping[str, Any] | None = None,
) -> Any:
    """The JSON that "host:port" answers with; of a `fleet` only its coordinator's. Blocks. Raises the FleetError that it answers with, and
    Denied, Unavailable, TimedOut when there is no such coordinator."""
    host, port = split_address(address)
    host = host.strip("[]")
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    data = None if body is None else json.dumps(body).encode()
    try:
        raw = socket.create_connection((host, port), SECONDS)
        # The name that only a coordinator of this fleet has, in place of the address, which may be called anything.
        connection.sock = context.wrap_socket(raw, server_hostname=api_host_name(fleet) if fleet else None)
        headers = {"Host": address, "Connection": "close"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        if key:
            headers["Authorization"] = f"Bearer {key}"
        connection.request(method, path, body=data, headers=headers)
        answer = connection.getresponse()
        return _checked(address, answer.status, answer.read(MOST_BYTES + 1))
    except ssl.SSLCertVerificationError as error:
        advice = "is it the right address?"
        if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
            advice = f"is this machine's clock right? It says {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
        raise Denied(f"{address} is no coordinator of this fleet: {error.verify_message}", advice=advice) from error
    except ssl.SSLError as error:
        advice = "is that the port of `glmfleet serve --host …`?"
        raise Denied(f"{address} does not speak HTTPS ({error.reason or 'no reason given'})", advice=advice) from error
    except TimeoutError as error:
        raise TimedOut(
            f"{address} did not answer within {SECONDS:g} s", advice="is it the right address, and no firewall between?"
        ) from error
    except socket.gaierror as error:
        raise Unavailable(f"{address}: nobody here knows a machine of that name", advice="give its address instead of its name") from error
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno and error.errno > 0 else str(error) or "it hung up"
        raise Unavailable(f"{address}: {why.lower()}", advice="does `glmfleet serve --host …` run there?") from error
    finally:
        connection.close()


def _checked(address: str, status: int, data: bytes) -> Any:
    if len(data) > MOST_BYTES:
        raise Internal(f"{address} answers with more than {MOST_BYTES} bytes")
    try:
        answer = json.loads(data) if data else None
        if status < 400:
            return answer
        told: Any = answer["error"]  # type: ignore[index]
        error = by_name(str(told["code"]), _shown(told["detail"]))
        error.advice = _shown(told.get("advice", ""))
        raise error
    except FleetError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise Internal(f"{address} answers as no coordinator does ({status})", advice="is it the right address?") from error


def _shown(text: object) -> str:
    """A stranger's words, in one line that does nothing to a terminal."""
    return "".join(character if character.isprintable() else " " for character in str(text)[:500]).strip()
