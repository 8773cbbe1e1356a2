"""The command that makes trouble for a simulated fleet of its own under load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.chaos_run import Wish, run
from fleet.cli.options import HomeOption, JsonOption, open_home


def chaos(
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="How long.")] = 2.0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed is the same trouble.")] = 1,
    devices: Annotated[int, typer.Option("--devices", min=2, max=16, help="How many simulated devices.")] = 4,
    stages: Annotated[int, typer.Option("--stages", min=1, max=16, help="Into how many the model is cut.")] = 3,
    clients: Annotated[int, typer.Option("--clients", min=1, max=64, help="That ask at once.")] = 8,
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between troubles, in the mean.")] = 20.0,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw tokens a second and troubles into this SVG file.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Trouble a fleet under load, and compare every token with what would have come: kills, hangs, cut links, a coordinator that dies.

    The fleet is one of its own, in a folder that goes away; only the model is kept. Exit code 1 when a token differs, something is left
    behind, or more than one request in 200 fails.

    Example: glmfleet sim chaos --minutes 2 --seed 7 --plot chaos.svg
    """
    if not run(open_home(home), Wish(minutes * 60, seed, devices, stages, clients, every), plot=plot, as_json=as_json):
        raise typer.Exit(1)
