"""The command that shows the fleet as it is, again and again."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from fleet.cli.client import CoordinatorClient, connect
from fleet.cli.options import HomeOption, JsonOption, open_home
from fleet.cli.output import print_json
from fleet.cli.top_view import Look, Order, as_json, rates, view
from fleet.home import Home
from protos.errors import FleetError, TemporaryError

EVERY_SECONDS = 1.0
SHARE = 20  # a look that took long comes less often: at most this part of the coordinator's time


def top(
    once: Annotated[bool, typer.Option("--once", help="Two looks a second apart, then end.")] = False,
    sort: Annotated[Order, typer.Option("--sort", help="Devices by this; the greatest first.")] = "name",
    as_json_: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """The fleet as it is, each second: devices, pipelines, watts, heat, tokens a second, requests. Ctrl-C ends it.

    Example: glmfleet top --sort watts
    """
    console = Console(highlight=False)
    with Watch(open_home(home)) as watch:
        look = watch.look(None)  # raises where there is no coordinator at all
        if once or as_json_ or not console.is_terminal:
            time.sleep(EVERY_SECONDS)  # rates are of the time between two looks
            look = watch.look(look)
            if as_json_:
                print_json(as_json(look))
            else:
                console.print(view(look, "", sort, None))
            return
        _go_on(console, watch, look, sort)


class Watch:
    """A context manager; the connection is made anew when the coordinator went away, wherever it is then."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._stack = ExitStack()
        self._client: CoordinatorClient | None = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def look(self, before: Look | None) -> Look:
        """Raises FleetError."""
        if self._client is None:
            self._client = self._stack.enter_context(connect(self._home))
        try:
            devices, deployments, requests = self._client.devices(), self._client.deployments(), self._client.requests()
        except FleetError:
            self._client = None
            self._stack.close()
            raise
        at = time.time()
        return Look(at, devices, deployments, requests, rates(before, requests, at))


def _go_on(console: Console, watch: Watch, look: Look, sort: Order) -> None:
    problem = ""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(view(look, problem, sort, console.size.height), refresh=True)
            began = time.monotonic()
            try:
                look, problem = watch.look(look), ""
            except TemporaryError as error:
                of = time.strftime("%H:%M:%S", time.localtime(look.at))
                problem = f"{error.detail}; it is asked again each second, what follows is of {of}"
            time.sleep(max(EVERY_SECONDS, SHARE * (time.monotonic() - began) if not problem else 0.0))
