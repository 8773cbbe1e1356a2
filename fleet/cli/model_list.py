"""The commands that show models: those of this home, or of the coordinator that it is logged in at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from fleet.api.encode import plain
from fleet.cli.client import connect
from fleet.cli.model_eval import quality_lines
from fleet.cli.options import HomeOption, JsonOption, open_home
from fleet.cli.output import figure, note, print_json, say
from fleet.cli.progress import progress
from fleet.cli.tables import Column, print_table
from fleet.service.models import model_view
from fleet.service.views import ModelView
from fleet.trust.login import Login, read_login
from protos.errors import Corrupt, InvalidInput
from protos.sizes import bytes_text
from quantize.artifact.store import ArtifactStore


def list_(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List the models here; on a machine that is logged in elsewhere, those of the coordinator there.

    Example: glmfleet model list --json
    """
    opened = open_home(home)
    login, store = read_login(opened), ArtifactStore(opened.artifacts)
    if login is not None:
        with connect(opened) as coordinator:
            models = coordinator.models()
    else:
        models = [model for name in store.list() if (model := _readable(store, name)) is not None]
    if as_json:
        print_json(models)
        return
    if login is not None:
        _note_elsewhere(login, models, store)
    elif not store.list():
        note("no models yet; get one: glmfleet model pull smollm2-135m")
    if not models:
        return
    columns = [
        Column("name", "names"),
        Column("parameters", "figure"),
        Column("layers", "figure"),
        Column("context", "figure"),
        Column("size", "figure"),
        Column("licence"),
    ]
    print_table(
        columns,
        [
            [
                model.name,
                parameters(model),
                str(model.layers),
                str(model.context),
                bytes_text(model.size_bytes),
                model.license or "none stated",
            ]
            for model in models
        ],
    )


def show(
    name: Annotated[str, typer.Argument(help="The model's name here.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every byte of it again; fails when one has changed.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show one model.

    Example: glmfleet model show smollm2-135m --verify
    """
    opened = open_home(home)
    if (login := read_login(opened)) is not None:
        if verify:
            raise InvalidInput(f"the models are at {login.address}, not here", advice="run it there, or `glmfleet logout` first")
        with connect(opened) as coordinator:
            model = coordinator.model(name)
        if as_json:
            print_json({**plain(model), "quality": None})
        else:
            _print_model(model)
        return
    store = ArtifactStore(opened.artifacts)
    if verify:
        with progress(of_bytes=True) as report:
            manifest = store.verify(name, lambda done, total, part: report("verify", done, total))
    else:
        manifest = store.load(name)
    model, quality = model_view(name, manifest), store.records.quality(manifest.digest)
    if as_json:
        print_json({**plain(model), "quality": plain(quality)})
        return
    _print_model(model, quality_lines(quality, store.records.plot(manifest.digest)) if quality else ())


def parameters(model: ModelView) -> str:
    """ "135 M"."""
    return f"{figure(model.parameters / 1e6)} M" if model.parameters < 1e9 else f"{figure(model.parameters / 1e9)} B"


def _print_model(model: ModelView, quality: Iterable[tuple[str, str]] = ()) -> None:
    for label, value in (
        ("name", model.name),
        ("digest", model.digest),
        ("architecture", f"{model.architecture}, {model.layers} layers, hidden size {model.hidden_size}"),
        ("parameters", parameters(model)),
        ("context", f"{model.context} tokens"),
        ("weights", f"int{model.bits}, a scale for each {model.block_size}, {bytes_text(model.size_bytes)}"),
        ("sampling", ", ".join(f"{name} {value:g}" for name, value in model.sampling.items())),
        ("licence", model.license or "none stated"),
        ("source", model.source),
        ("notice", model.notice),
        *quality,
    ):
        if value:
            say(f"{label:<13}{value}")


def _note_elsewhere(login: Login, models: Sequence[ModelView], store: ArtifactStore) -> None:
    """Whose models these are, and that those of this machine are of no use to that coordinator."""
    note(f"the models at {login.address}" if models else f"no models at {login.address} yet; there: glmfleet model pull smollm2-135m")
    if own := store.list():
        note(f"on this machine alone, which the coordinator there does not see: {', '.join(own)}")


def _readable(store: ArtifactStore, name: str) -> ModelView | None:
    """A damaged model is told of and left out: the others can still be listed."""
    try:
        return model_view(name, store.load(name))
    except Corrupt as error:
        note(f"damaged: {error.detail}")
        note(f"  {error.advice}")
        return None
