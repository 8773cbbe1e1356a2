"""The command that shows what a co-designed chip gains over a generic one, a mechanism after another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.compiling import CacheOption, PositionsOption, ProfileOption, SequencesOption
from fleet.cli.options import HomeOption, JsonOption, open_home
from fleet.cli.output import figure, note, print_json
from fleet.cli.scatter import Dot, scatter
from fleet.cli.tables import Column, print_table
from quantize.artifact.store import ArtifactStore
from quantize.compiler.ir import Shape
from quantize.compiler.ladder import Rung, ladder, plain
from sim_devices.chip.core_profiles import load_core


def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of `glmfleet model list`.")],
    profile: ProfileOption,
    sequences: SequencesOption = 1,
    context: PositionsOption = 1024,
    kv: CacheOption = "float32",
    price: Annotated[
        float | None, typer.Option("--price", metavar="PRICE", min=0.0, help="Of an hour of the chip.", show_default=False)
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Latency against energy.", show_default=False)] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Why a chip is as fast as it is, a mechanism after another: from its generic instructions to the co-designed ones, for a token of each
    sequence.

    Example: glmfleet sim explain smollm2-135m --profile edge-npu --context 512
    """
    if plot and plot.suffix != ".svg":
        raise typer.BadParameter(f"--plot writes SVG: name the file {plot.with_suffix('.svg')}")
    chip = load_core(profile)
    manifest = ArtifactStore(open_home(home).artifacts).load(model)
    rungs = list(ladder(manifest, chip.core("generic"), chip.core("codesigned"), Shape(sequences, 1, context, kv)))
    if plot:
        dots = [Dot(1e3 * rung.timing.seconds, rung.joules_per_token, rung.name) for rung in rungs]
        try:
            plot.write_text(scatter(f"{model} on {chip.name}", "milliseconds per token", "joules per token", dots), encoding="utf-8")
        except OSError as error:
            raise typer.BadParameter(f"--plot: cannot write {plot}: {error.strerror}") from error
        note(f"plot: {plot}")
    if as_json:
        print_json([plain(rung, price) for rung in rungs])
        return
    columns = [Column("with"), *(Column(title, "figure") for title in ("ms", "of peak\nbandwidth", "of the\narrays", "W", "J/token"))]
    columns += [Column("cost of\n1M tokens", "figure")] * (price is not None)
    print_table(columns, [_row(rung, price) for rung in rungs])
    first, best = rungs[0].timing.seconds, min(rung.timing.seconds for rung in rungs)
    note(f"{100 * (best / first - 1):.0f} % time; {len(chip.estimated)} of {len(chip.figures)} figures of the chip are estimates")


def _row(rung: Rung, price: float | None) -> list[str]:
    timing = rung.timing
    cells = [
        rung.name,
        figure(1e3 * timing.seconds),
        f"{100 * timing.dram_utilisation:.1f} %",
        f"{100 * timing.array_utilisation:.2f} %",
        figure(rung.watts),
        figure(rung.joules_per_token),
    ]
    return cells if price is None else [*cells, figure(rung.cost_per_million_tokens(price))]
