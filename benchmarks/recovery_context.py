"""How long answers pause when a device dies, by how much context they have by then.

python -m benchmarks.recovery_context --runs 3 --plot benchmarks/results/recovery.svg

The fleet, the streams and the pause are those of `benchmarks.recovery`; the device of the middle stage is killed when the first stream
has a given context (its prompt and what it was answered). Three ways after each other: a standby; no standby and the device started again
at once, exact; the same by `--recovery fast`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.recovery import PROMPT, STAGES, Setting, standing

AFTER = 40  # tokens that an answer has still to come when the device is killed
MIDDLE = STAGES.index("middle")
WAYS: Mapping[str, Setting] = {
    "a standby": Setting(),
    "no standby, exact": Setting(restart=True),
    "no standby, fast": Setting(restart=True, fast=True),
}


@dataclass(frozen=True)
class Point:
    """Seconds, of all streams of all runs at one context."""

    context: int
    pause: float
    worst: float
    wrong: int
    answers: int


def measure(setting: Setting, contexts: Sequence[int], runs: int) -> list[Point]:
    points = []
    with standing(setting) as stand:
        for context in contexts:
            given = context - PROMPT
            found = [stand.kill(MIDDLE, given, given + AFTER) for _ in range(runs)]
            pauses = [pause for run in found for pause in run.pauses]
            points.append(Point(context, median(pauses), max(pauses), sum(run.wrong for run in found), len(pauses)))
    return points


def rows(curves: Mapping[str, Sequence[Point]]) -> list[str]:
    """A table in Markdown."""
    lines = ["| way | context | pause s | worst | same answers |", "|---|---:|---:|---:|---:|"]
    for way, points in curves.items():
        lines += [f"| {way} | {p.context} | {p.pause:.2f} | {p.worst:.2f} | {p.answers - p.wrong} of {p.answers} |" for p in points]
    return lines


def draw(curves: Mapping[str, Sequence[Point]], title: str, path: Path) -> None:
    """Medians as lines, up to the worst as a shade; an SVG file."""
    from matplotlib import rcParams  # large, and only for this
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "recovery"  # the same figures give the same file
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    chart = figure.subplots()
    for way, points in curves.items():
        contexts = [point.context for point in points]
        medians = [point.pause for point in points]
        (line,) = chart.plot(contexts, medians, marker="o", label=way)
        chart.fill_between(contexts, medians, [point.worst for point in points], alpha=0.15, color=line.get_color(), linewidth=0)
    chart.set(title=title, xlabel="tokens of context when the device was killed", ylabel="pause, s", ylim=(0, None))
    chart.grid(alpha=0.3)
    chart.legend()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 128, 256, 512, 896], help=f"each above {PROMPT}: the prompt's")
    parser.add_argument("--runs", type=int, default=3, help="of each context")
    parser.add_argument("--plot", type=Path, help="draw it into this SVG file")
    options = parser.parse_args(arguments)
    tokens = max(options.contexts) - PROMPT + AFTER
    curves = {}
    for way, kind in WAYS.items():
        setting = Setting(options.model, kind.profile, options.streams, tokens, PROMPT + tokens, kind.restart, kind.fast)
        curves[way] = measure(setting, options.contexts, options.runs)
        print("\n".join(rows({way: curves[way]})), flush=True)
    if options.plot:
        draw(curves, f"{options.model}, three stages, {options.streams} streams", options.plot)


if __name__ == "__main__":
    main()
