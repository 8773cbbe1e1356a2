"""The command that measures a model's quality, and how a report reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from fleet.cli.options import HomeOption, JsonOption, open_home
from fleet.cli.output import figure, note, print_json, say
from fleet.cli.tables import Column, print_table
from fleet.home import Home
from protos.errors import NotFound
from quantize.artifact.store import ArtifactStore
from quantize.quality.plot import figures
from quantize.quality.report import QualityReport

QUICK_TOKENS = 2048


def eval_(
    name: Annotated[str, typer.Argument(help="The model's name here.")],
    text: Annotated[
        Path | None, typer.Option("--text", help="UTF-8 text to read (default: Python's own help topics).", show_default=False)
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Compare with another framework's ids_0 … and logits_0 … (.npz) too.", show_default=False),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="How much of the text to read.")] = 8192,
    kv: Annotated[Literal["float32", "int8"], typer.Option("--kv", help="Type of the KV cache.")] = "float32",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Measure what the weights' rounding costs: perplexity, KL, top-1 agreement and error by layer, against the checkpoint in fp32.

    Both run through the same graphs on this machine's engine; intervals of 95 % are by bootstrap over windows of 512 tokens. The report
    is kept beside the model, and `glmfleet model show` shows it.

    Example: glmfleet model eval smollm2-135m --tokens 32768
    """
    opened = open_home(home)
    report = measure(opened, name, text=text, tokens=tokens, reference=reference, kv=kv)
    if as_json:
        print_json(report)
        return
    print_report(report)
    store = ArtifactStore(opened.artifacts)
    note(f"plot: {store.records.plot(store.load(name).digest)}")


def measure(
    home: Home,
    name: str,
    *,
    text: Path | None = None,
    tokens: int = QUICK_TOKENS,
    reference: Path | None = None,
    kv: Literal["float32", "int8"] = "float32",
) -> QualityReport:
    """Raises FleetError, NotFound where the engine is not installed."""
    try:
        from fleet.cli.evaluation import EvaluationRequest, evaluate  # a coordinator has no onnxruntime
    except ModuleNotFoundError as error:
        raise NotFound(
            f"measuring runs the model here, and {error.name} is not installed", advice="pip install 'glmfleet[device]'"
        ) from error
    return evaluate(home, name, EvaluationRequest(text, tokens, reference, kv))


def print_report(report: QualityReport) -> None:
    for line in figures(report):
        say(line)
    say(f"relative rms error of the residual stream after each layer, %: {_layers(report)}")
    if report.reference:
        rows = [
            [side, figure(found.max_abs), figure(found.mean_abs), figure(found.kl), f"{100 * found.top1_agreement:.1f} %"]
            for side, found in (("fp32 graphs", report.reference.fp32), ("artifact", report.reference.int8))
        ]
        titles = ("largest difference", "mean", "KL", "same top token")
        print_table([Column(f"against {report.reference.file}"), *(Column(title, "figure") for title in titles)], rows)


def quality_lines(report: QualityReport, plot: Path | None) -> Iterator[tuple[str, str]]:
    """(label, text) for `model show`."""
    yield from zip(("quality", "", "", ""), figures(report), strict=True)
    yield "by layer, %", _layers(report)
    if plot:
        yield "plot", str(plot)


def _layers(report: QualityReport) -> str:
    return " ".join(f"{100 * layer.value:.2f}" for layer in report.layers)
