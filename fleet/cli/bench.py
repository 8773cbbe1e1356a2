"""Commands that measure: they run the source tree's benchmarks, which an installed package does not carry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import typer

from protos.errors import NotFound

app = typer.Typer(name="bench", rich_markup_mode="rich")

ROOT = Path(__file__).resolve().parents[2]
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.callback()
def _group() -> None:
    """Measurements: speed and quality of this machine (in a checkout of the source), and serve: any OpenAI endpoint."""


@app.command(context_settings=_PASSED_ON)
def speed(context: typer.Context) -> None:
    """How fast it is on this machine: the engine alone, the whole path, cuts of the model, many streams, and llama.cpp beside them.

    All options are those of `python -m benchmarks.speed`, which lists them with --help.

    Example: glmfleet bench speed --model smollm2-135m --starts 4 --rounds 2
    """
    _run("speed", context.args)


@app.command(context_settings=_PASSED_ON)
def quality(context: typer.Context) -> None:
    """What int8 costs in quality: the engine against the fp32 checkpoint on the same text.

    All options are those of `python -m benchmarks.quality`, which lists them with --help.

    Example: glmfleet bench quality --tokens 8192 --block 32
    """
    _run("quality", context.args)


def _run(name: str, options: list[str]) -> None:
    """In a process of its own, at the tree's root, where its modules are found. Raises NotFound outside of a checkout."""
    if not (ROOT / "benchmarks" / f"{name}.py").exists():
        raise NotFound("the benchmarks are not installed", advice="run them in a checkout of the source: pip install -e '.[bench]'")
    raise typer.Exit(subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT, check=False).returncode)
