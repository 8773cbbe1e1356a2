"""Draws what `benchmarks.speed` measured: tokens/s of all streams together, by how many there are.

python -m benchmarks.speed_plot
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed import RESULTS
from benchmarks.targets import ENGINE, LLAMA, PRODUCT, key
from protos.errors import NotFound

PLOT = RESULTS.with_name("speed.svg")
_CONTENDERS = {ENGINE: "engine alone", PRODUCT: "product, over HTTP", LLAMA: "llama.cpp Q8_0"}


def curves(entry: Mapping[str, Any]) -> dict[str, list[tuple[int, float, float, float]]]:
    """By contender (streams, median, least, greatest) in tokens/s; contenders that were not measured are left out."""
    figures, found = entry["figures"], {}
    for contender in _CONTENDERS:
        names = {streams: key(contender, "decode", streams) for streams in entry["settings"]["streams"]}
        own = [(streams, figures[name]) for streams, name in names.items() if name in figures]
        if own:
            found[contender] = [(streams, each["median"], each["low"], each["high"]) for streams, each in own]
    return found


def draw(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One chart for each model. Raises NotFound for none."""
    from matplotlib import rcParams  # large, and only for this
    from matplotlib.figure import Figure

    if not entries:
        raise NotFound("nothing was measured yet", advice="python -m benchmarks.speed")
    rcParams["svg.hashsalt"] = "speed"  # the same figures give the same file
    figure = Figure(figsize=(5.2 * len(entries), 4.2), layout="constrained")
    for chart, entry in zip(figure.subplots(1, len(entries), squeeze=False)[0], entries, strict=True):
        for contender, points in curves(entry).items():
            streams, medians, lows, highs = zip(*points, strict=True)
            (line,) = chart.plot(streams, medians, marker="o", label=_CONTENDERS[contender])
            chart.fill_between(streams, lows, highs, alpha=0.15, color=line.get_color(), linewidth=0)
        chart.set(title=f"{entry['model']}, {entry['date']}", xlabel="streams at once", ylabel="tokens/s together", ylim=(0, None))
        chart.set_xscale("log", base=2)
        chart.set_xticks(entry["settings"]["streams"], labels=map(str, entry["settings"]["streams"]))
        chart.grid(alpha=0.3)
        chart.legend()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_plot", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="of benchmarks.speed (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=PLOT, help="an SVG file (default: %(default)s)")
    options = parser.parse_args(arguments)
    entries = json.loads(options.results.read_text()) if options.results.exists() else []
    latest = {entry["model"]: entry for entry in entries if len(entry["settings"]["streams"]) > 1}
    draw(list(latest.values()), options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
