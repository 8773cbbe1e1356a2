"""The command that runs the coordinator: one process, one loop, the HTTP API on top."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from fleet.api.app import create_app
from fleet.api.caller import Authenticate
from fleet.api.malformed import HttpProtocol
from fleet.cli.options import HomeOption, InsecureOption, InterfaceOption, open_home, parse_duration
from fleet.cli.output import note
from fleet.home import Home
from fleet.service.coordinator import Coordinator
from fleet.store.engine import parse_url
from fleet.trust.api_key import authenticator, ensure_key
from fleet.trust.authority import LONGEST_LIFE, SHORTEST_LIFE
from protos.errors import Denied, InvalidInput
from protos.net.listening import bound
from protos.net.transport import is_loopback

DEFAULT_PORT = 7400
DRAIN_SECONDS = 2  # what open answers get to end after a signal, before they are cancelled


def serve(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="HTTP port; 0: any free one.")] = DEFAULT_PORT,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; beyond loopback only with --require-key.")] = "127.0.0.1",
    require_key: Annotated[
        bool, typer.Option("--require-key", help="Ask every client for the key in the file api-key of the home, made when missing.")
    ] = False,
    seed: Annotated[
        list[str] | None,
        typer.Option("--seed", metavar="HOST:PORT", help="A device that mDNS does not find; may be repeated.", show_default=False),
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
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, to stderr.")] = False,
    home: HomeOption = None,
) -> None:
    """Run the coordinator: HTTP API, discovery, deployments. Ctrl-C ends it.

    Example: glmfleet serve --port 7400
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    opened = open_home(home)
    life = timedelta(seconds=parse_duration(certificate_life))
    if not SHORTEST_LIFE <= life <= LONGEST_LIFE:
        raise InvalidInput(f"certificates for {certificate_life}", advice="from 10m to 365d")
    if not is_loopback(host) and not require_key:
        raise Denied(f"listening on {host} lets everyone in reach use the fleet", advice="add --require-key, or leave --host out")
    opened.check_not_served()  # before its port is found to be taken
    authenticate = authenticator(ensure_key(opened)) if require_key else None
    with bound(host, port) as listener:
        url = _url(host, listener.getsockname()[1])
        with opened.serving(url, _file_of(store)):
            coordinator = Coordinator(
                opened,
                seeds=tuple(seed or ()),
                interfaces=tuple(interface) if interface else None,
                insecure=insecure,
                store=store,
                certificate_life=life,
            )
            asyncio.run(_serve(coordinator, listener, url, opened, authenticate))


def _file_of(store: str | None) -> Path | None:
    """The file of a SQLite URL. Raises InvalidInput."""
    url = parse_url(store) if store is not None else None
    return Path(url.database).absolute() if url is not None and url.get_backend_name() == "sqlite" and url.database else None


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: it would raise the signal again, after which nothing of ours could be closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(coordinator: Coordinator, listener: socket.socket, url: str, home: Home, authenticate: Authenticate | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)

    def on_signal() -> None:
        stop.set()
        for number in signals:  # a second one ends the process the hard way
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    async with coordinator:
        config = uvicorn.Config(
            create_app(coordinator, authenticate=authenticate),
            http=HttpProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        server = _Server(config)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=[listener]), name="http")
            stopping = tasks.create_task(stop.wait(), name="signal")
            note(f"glmfleet serves {url} for {home.path}; API: {url}/openapi.json; Ctrl-C ends it")
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            server.should_exit = True
    note("stopped")


def _url(host: str, port: int) -> str:
    """Where clients of this machine find it."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # nosec B104 # it listens where it is told
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"
