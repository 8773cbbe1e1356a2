"""The command that runs the coordinator: one process, one loop, the HTTP API on top."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Protocol

import typer

from fleet.cli.options import DEFAULT_PORT, HomeOption, InsecureOption, InterfaceOption, open_home, parse_duration
from fleet.cli.output import note
from fleet.home import Home
from fleet.service.coordinator import Coordinator
from fleet.store.engine import parse_url
from fleet.telemetry.otlp_settings import OtlpSettings, otlp_settings
from fleet.trust.api_key import Authenticate, ensure_key
from fleet.trust.authority import LONGEST_LIFE, SHORTEST_LIFE, Authority, utc_now
from fleet.trust.login import read_login
from fleet.trust.server_certificate import ServerCertificate, names_of_this_machine
from protos.enrolment import authority_hash, fleet_words
from protos.errors import Conflict, Denied, FleetError, InvalidInput
from protos.net.addresses import joined_address
from protos.net.door import raise_limit
from protos.net.listening import bound
from protos.net.transport import is_loopback
from protos.recent_log import recent_log

RENEW_SECONDS = 60.0  # between two looks at whether the certificate has to be another

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Listening:
    """`authority`: beyond loopback, with HTTPS; `key`: of the home, "" when none is asked for; `names`: further names of this machine;
    `reach`: where other machines find it."""

    authority: Authority | None
    key: str
    names: tuple[str, ...]
    reach: tuple[str, ...]


def serve(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="HTTP port; 0: any free one.")] = DEFAULT_PORT,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; beyond loopback with HTTPS and keys.")] = "127.0.0.1",
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="NAME", help="A further name or address of this machine, for clients; may be repeated."),
    ] = None,
    require_key: Annotated[
        bool, typer.Option("--require-key", help="Ask for a key on loopback, too: one of `glmfleet keys`, or the home's own (api-key).")
    ] = False,
    seed: Annotated[
        list[str] | None,
        typer.Option("--seed", metavar="HOST:PORT", help="A device that mDNS does not find; may be repeated.", show_default=False),
    ] = None,
    relay_port: Annotated[
        int | None,
        typer.Option(
            "--relay-port",
            min=0,
            max=65535,
            help="Take boards that dial this machine because nobody can dial them (`device run --coordinator`).",
            show_default=False,
        ),
    ] = None,
    interface: InterfaceOption = None,
    insecure: InsecureOption = False,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="URL",
            help="Database of deployments and telemetry: postgresql://... or sqlite:///... (default: a file in the home).",
            show_default=False,
        ),
    ] = None,
    certificate_life: Annotated[
        str, typer.Option("--certificate-life", metavar="DURATION", help="Of members' certificates, 10m to 365d; renewed by themselves.")
    ] = "24h",
    otlp: Annotated[
        str | None,
        typer.Option(
            "--otlp",
            metavar="URL",
            help="Send metrics and traces to this OpenTelemetry receiver, by HTTP (default: OTEL_EXPORTER_OTLP_ENDPOINT, else none).",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, to stderr.")] = False,
    home: HomeOption = None,
) -> None:
    """Run the coordinator: HTTP API, discovery, deployments. Ctrl-C ends it.

    Example: glmfleet serve --port 7400
    """
    raise_limit()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.INFO if verbose else logging.WARNING)
    recent_log()  # it has what a terminal is spared: `glmfleet logs`
    told, opened = otlp_settings(otlp, os.environ), open_home(home)
    beyond = not is_loopback(host)
    if beyond and insecure:
        raise Denied(f"--insecure is for loopback only, not for {host}", advice="leave --insecure out: TLS needs no set-up")
    life = timedelta(seconds=parse_duration(certificate_life))
    if not SHORTEST_LIFE <= life <= LONGEST_LIFE:
        raise InvalidInput(f"certificates for {certificate_life}", advice="from 10m to 365d")
    opened.check_not_served()  # before its port is found to be taken
    if (login := read_login(opened)) is not None:
        raise Conflict(f"this home is logged in at {login.address}", advice="`glmfleet logout` first, or serve another --home")
    authority = Authority.open(opened.authority, life=life) if beyond else None  # before anybody of this home looks for it
    key = ensure_key(opened) if beyond or require_key else ""
    with bound(host, port) as listener:
        port = listener.getsockname()[1]
        url, reach = _url(host, port, secure=beyond), _reach(host, port, name or ())
        with opened.serving(url, _file_of(store), reach):
            coordinator = Coordinator(
                opened,
                seeds=tuple(seed or ()),
                interfaces=tuple(interface) if interface else None,
                insecure=insecure,
                relay="" if relay_port is None else joined_address(host, relay_port),
                store=store,
                certificate_life=life,
            )
            asyncio.run(_serve(coordinator, listener, url, opened, _Listening(authority, key, tuple(name or ()), reach), told))


def _file_of(store: str | None) -> Path | None:
    """The file of a SQLite URL. Raises InvalidInput."""
    url = parse_url(store) if store is not None else None
    return Path(url.database).absolute() if url is not None and url.get_backend_name() == "sqlite" and url.database else None


class _Server(Protocol):
    """As fleet.api.server has it."""

    should_exit: bool

    async def serve(self, sockets: list[socket.socket] | None = None) -> None: ...


async def _serve(
    coordinator: Coordinator, listener: socket.socket, url: str, home: Home, how: _Listening, told: OtlpSettings | None
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)

    def on_signal() -> None:
        stop.set()
        for number in signals:  # a second one ends the process the hard way
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    # The HTTP side is a third of what this program reads at its start. It is read while devices are looked for, which is mostly waiting.
    reading = loop.run_in_executor(None, _read_http_side)
    async with coordinator, _exporting(coordinator, told), asyncio.TaskGroup() as tasks:
        certificate, renewing = None, None
        if how.authority is not None:
            certificate = ServerCertificate(how.authority, home.coordinator, names_of_this_machine(how.names))
            renewing = tasks.create_task(_renew(certificate, how.names), name="renew the certificate")
        authenticate = coordinator.authenticator(how.key) if how.key else None
        made = await reading
        server = made(coordinator, authenticate, certificate.context if certificate else None)
        serving = tasks.create_task(server.serve(sockets=[listener]), name="http")
        stopping = tasks.create_task(stop.wait(), name="signal")
        note(f"glmfleet serves {url} for {home.path}; page: {url}/, API: {url}/openapi.json; Ctrl-C ends it")
        if how.authority is not None:
            reach = how.reach[0] if how.reach else "ADDRESS"
            note(f"on another machine: glmfleet login {reach}, with a key: glmfleet keys create NAME --login")
            note(f"  the fleet's fingerprint, to be compared there: {fleet_words(authority_hash(how.authority.public_der))}")
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if renewing is not None:
            renewing.cancel()
        server.should_exit = True
    note("stopped")


def _exporting(coordinator: Coordinator, told: OtlpSettings | None) -> AbstractAsyncContextManager[object]:
    """To an OpenTelemetry receiver, where one is named: only then its library has to be there."""
    if told is None:
        return nullcontext()
    from fleet.telemetry.otlp import OtlpExport

    export = OtlpExport(coordinator.metrics, told)
    if told.traces:
        coordinator.observers.append(export)
    return export


def _read_http_side() -> Callable[[Coordinator, Authenticate | None, ssl.SSLContext | None], _Server]:
    from fleet.api.app import create_app
    from fleet.api.connections import Door
    from fleet.api.server import make_server

    def made(coordinator: Coordinator, authenticate: Authenticate | None, tls: ssl.SSLContext | None) -> _Server:
        return make_server(create_app(coordinator, authenticate=authenticate), Door(tls=tls))

    return made


async def _renew(certificate: ServerCertificate, names: Sequence[str]) -> None:
    """For ever: in time before it ends, and when this machine has other addresses."""
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            if certificate.refresh(await asyncio.to_thread(names_of_this_machine, names), utc_now()):
                _log.info("the certificate of the HTTP API was renewed")
        except FleetError as error:
            _log.error("the certificate of the HTTP API could not be renewed: %s", error.detail)


def _url(host: str, port: int, *, secure: bool) -> str:
    """Where clients of this machine find it."""
    return f"{'https' if secure else 'http'}://{joined_address({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host), port)}"  # nosec B104 # it listens where it is told


def _reach(host: str, port: int, names: Sequence[str]) -> tuple[str, ...]:
    """By which addresses other machines find it, the likeliest first: those that were given, then its own. None on loopback."""
    if is_loopback(host):
        return ()
    own: Sequence[str] = (host,)
    if host in ("0.0.0.0", "::"):  # nosec B104 # nothing is bound here
        own = [one for one in names_of_this_machine().addresses if _is_reached(one, host)]
    return tuple(joined_address(one, port) for one in dict.fromkeys([*names, *own]))


def _is_reached(address: str, host: str) -> bool:
    ip = ipaddress.ip_address(address)
    return not (ip.is_loopback or ip.is_link_local) and (ip.version == 4 or host == "::")
