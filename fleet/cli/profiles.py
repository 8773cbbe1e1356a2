"""The command that lists the kinds of devices that can be simulated, and explains each figure of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from fleet.cli.options import JsonOption
from fleet.cli.output import figure, note, print_json, say
from fleet.cli.tables import Column, print_table
from protos.sizes import bytes_text
from sim_devices.profiles import Profile, list_profiles, load_profile


def profiles(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One of them, or your own TOML file.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List the kinds of devices that can be simulated; with a NAME, every figure of it with its source and what that is worth.

    Example: glmfleet sim profiles rk3588
    """
    known = [load_profile(one) for one in ([name] if name else list_profiles())]
    if as_json:
        print_json(known[0] if name else known)
    elif name:
        _explain(known[0])
    else:
        _list(known)


def _list(known: Sequence[Profile]) -> None:
    columns = [
        Column("profile", "names"),
        Column("memory", "figure"),
        Column("GB/s", "figure"),
        Column("reached", "figure"),
        Column("int8 TOPS", "figure"),
        Column("idle W", "figure"),
        Column("max W", "figure"),
        Column("estimated", "figure"),
    ]
    rows = [
        [
            one.name,
            bytes_text(one.memory_bytes),
            figure(one.figures["memory_bandwidth"].value / 1e9),
            f"{100 * one.figures['linear_bandwidth_efficiency'].value:.0f} %",
            figure(2 * one.figures["compute"].value / 1e12),
            figure(one.idle_watts),
            figure(one.tdp_watts),
            f"{len(one.estimated)} of {len(one.figures)}",
        ]
        for one in known
    ]
    print_table(columns, rows)
    note("peak bandwidth and the share of it that weights reach; dense TOPS; each figure with its source: glmfleet sim profiles NAME")


def _explain(one: Profile) -> None:
    say(f"{one.name}: {one.description}")
    columns = [Column("figure"), Column("value", "figure"), Column("trust"), Column("source")]
    rows = [[key, f"{figured.value:.4g} {figured.unit}", figured.trust, figured.source] for key, figured in one.figures.items()]
    print_table(columns, rows)
