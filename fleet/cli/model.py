"""Commands for models: pull, import, list, show, rm, and eval of `fleet.cli.model_eval`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from device.text.confined import ConfinedText
from fleet.answering.prompts import load_text
from fleet.api.encode import plain
from fleet.cli.client import connect
from fleet.cli.model_eval import eval_, measure, print_report
from fleet.cli.model_list import list_, parameters, show
from fleet.cli.options import HomeOption, JsonOption, open_home, parse_duration
from fleet.cli.output import note, print_json, time_text
from fleet.cli.progress import progress
from fleet.home import Home
from fleet.service.models import model_view
from fleet.service.views import ModelView
from fleet.trust.login import read_login
from fleet.trust.publisher import Publisher
from protos.errors import Conflict, Corrupt, Denied, FleetError
from protos.manifest import Manifest
from protos.sizes import bytes_text
from quantize.artifact.journal import source_identity
from quantize.artifact.records import Source
from quantize.artifact.schemes import Bits, Scheme, checked_bits
from quantize.artifact.store import ArtifactStore
from quantize.blocks import BLOCK_SIZES
from quantize.checkpoints.checkpoint import Checkpoint
from quantize.checkpoints.formats import open_checkpoint
from quantize.hub.catalog import fetch
from quantize.importing.importer import import_model

app = typer.Typer(name="model", rich_markup_mode="rich")
app.command("eval")(eval_)
app.command("list")(list_)
app.command()(show)

BlockOption = Annotated[
    int | None,
    typer.Option("--block-size", help="Weights per scale: 32, 64 or 128 (default: what suits the model).", show_default=False),
]
BitsOption = Annotated[
    int, typer.Option("--bits", help="Of the layers' weights: 8, or 4 (half the bytes, more loss); embedding and head keep 8.")
]
AsymmetricOption = Annotated[
    bool, typer.Option("--asymmetric", help="A zero point for each block of the layers' weights: less loss at 4 bits.")
]
RotateOption = Annotated[
    bool | None,
    typer.Option(
        "--rotate/--no-rotate",
        help="Fold a rotation into the weights where the architecture allows it: the same function, less loss at 8 bits, more at 4 "
        "(default: with 8).",
        show_default=False,
    ),
]

AdapterOption = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        help="Merge a LoRA adapter into it: the folder that PEFT saved (one in PATH itself is merged anyway).",
        show_default=False,
    ),
]
EvalOption = Annotated[bool, typer.Option("--eval", help="Measure its quality at once, on a little text (see glmfleet model eval).")]


@app.command()
def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="smollm2-135m, or ORG/NAME of a model hub (HF_ENDPOINT, HF_TOKEN).")],
    name: Annotated[str | None, typer.Option("--name", help="What to call it here (default: MODEL's name).", show_default=False)] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit on the hub (default: the newest).", show_default=False)
    ] = None,
    bits: BitsOption = 8,
    block_size: BlockOption = None,
    asymmetric: AsymmetricOption = False,
    rotate: RotateOption = None,
    evaluate: EvalOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Download a model, quantize it to int8 and keep it.

    A download that broke off goes on where it stopped.

    Example: glmfleet model pull zai-org/glm-edge-1.5b-chat --name glm-edge
    """
    if revision is not None and not _on_hub(model):
        raise typer.BadParameter("--revision is for models of a hub, ORG/NAME")
    opened = open_home(home)
    how = How(checked_bits(bits), block_size, not asymmetric, rotate)
    _tell(opened, pull_model(opened, model, name or model.rpartition("/")[2].lower(), how, revision), evaluate, as_json)


@app.command("import")
def import_(
    path: Annotated[
        Path, typer.Argument(help="A Hugging Face checkpoint folder (config.json, *.safetensors or *.bin, tokenizer.json), or a GGUF file.")
    ],
    name: Annotated[str, typer.Option("--name", help="What to call it here.")],
    adapter: AdapterOption = None,
    bits: BitsOption = 8,
    block_size: BlockOption = None,
    asymmetric: AsymmetricOption = False,
    rotate: RotateOption = None,
    evaluate: EvalOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Quantize a checkpoint to int8 and keep it.

    An import that broke off goes on behind its last whole layer when it is started again.

    Example: glmfleet model import ./glm-edge-1.5b-chat --name glm-edge
    """
    opened = open_home(home)
    how = How(checked_bits(bits), block_size, not asymmetric, rotate)
    how.check()
    _tell(opened, _quantize(opened, path, name, how, adapter=adapter), evaluate, as_json)


@app.command()
def sign(
    name: Annotated[str, typer.Argument(help="The model's name here.")],
    life: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long devices take the signature for good.")] = "90d",
    above: Annotated[
        int,
        typer.Option(
            "--above", min=0, metavar="VERSION", help="What devices have heard, when they refuse this as older.", show_default=False
        ),
    ] = 0,
    home: HomeOption = None,
) -> None:
    """Vouch for a model with this home's publisher key: devices run no other.

    Done by itself at import. Needed where the key is kept on another machine, and to go back to an older artifact.

    Example: glmfleet model sign smollm2-135m --for 30d
    """
    opened = open_home(home)
    statement = Publisher.open(opened.publisher, ArtifactStore(opened.artifacts)).sign(name, parse_duration(life), above)
    note(f"{name} is signed as version {statement.version}, until {time_text(statement.expires)}")


@app.command()
def rm(name: Annotated[str, typer.Argument(help="The model's name here.")], home: HomeOption = None) -> None:
    """Remove a model and the bytes that only it uses.

    Example: glmfleet model rm smollm2-135m
    """
    opened = open_home(home)
    store = ArtifactStore(opened.artifacts)
    if name not in store.list():  # one whose manifest is damaged can still be removed
        store.load(name)
    _check_unused(opened, name)
    note(f"{name} removed, {bytes_text(store.remove(name))} freed")


@dataclass(frozen=True)
class How:
    """To quantize a model; `block_size` None: what suits it."""

    bits: Bits = 8
    block_size: int | None = None
    symmetric: bool = True
    rotate: bool | None = None

    def check(self) -> None:
        """Raises InvalidInput."""
        Scheme(self.bits, BLOCK_SIZES[0] if self.block_size is None else self.block_size, self.symmetric).check()


def pull_model(home: Home, model: str, name: str, how: How = How(), revision: str | None = None) -> ModelView:
    """Fetch and quantize, with progress. Raises FleetError."""
    store = ArtifactStore(home.artifacts)
    store.check_name(name)
    how.check()
    with progress(of_bytes=True) as report:

        def told(done: int, total: int) -> None:
            report("download", done, total)

        path = _from_hub(home, model, revision, told) if _on_hub(model) else fetch(model, home.downloads, told)
    return _quantize(home, path, name, how, pulled=model)


def _quantize(home: Home, path: Path, name: str, how: How, pulled: str = "", adapter: Path | None = None) -> ModelView:
    store = ArtifactStore(home.artifacts)
    with progress(of_bytes=True) as report, open_checkpoint(path, adapter) as checkpoint:
        _check_text(checkpoint)
        manifest = import_model(
            checkpoint,
            store,
            name,
            bits=how.bits,
            symmetric=how.symmetric,
            block_size=how.block_size,
            rotate=how.rotate,
            source=source_identity(path) + (source_identity(adapter) if adapter else ""),
            progress=lambda done, total, part: report(f"quantize to int{how.bits}", done, total),
        )
        unused = checkpoint.sampling.unused
    store.records.save_source(manifest.digest, Source(str(path.absolute()), pulled, str(adapter.absolute()) if adapter else ""))
    _sign(home, store, name)
    _note_text(store, name, manifest)
    if unused:
        note(f"not used of how {name} is to be sampled: {', '.join(unused)}")
    return model_view(name, manifest)


def _sign(home: Home, store: ArtifactStore, name: str) -> None:
    """So that devices run it. Where the publisher's key is kept elsewhere, somebody has to sign it there."""
    try:
        Publisher.open(home.publisher, store).sign(name)
    except Denied as error:
        note(f"{name} is not signed: {error.detail}; {error.advice}")


def _check_text(checkpoint: Checkpoint) -> None:
    """Raises InvalidInput for a tokenizer that asks for more than it is, which is looked at where it can do no harm; before any work."""
    with suppress(Corrupt):  # token ids are enough for it: `_note_text` says so
        ConfinedText(checkpoint.text_files, checkpoint.config.eos_token_ids, checkpoint.config.vocab_size).close()


def _note_text(store: ArtifactStore, name: str, manifest: Manifest) -> None:
    """What of its text will not work, told now and not when it is deployed."""
    try:
        problem = load_text(store, manifest).chat_problem()
    except FleetError as error:
        note(f"{name} can be given token ids only: {error.detail}")
        return
    if problem:
        note(f"{name} can be given raw prompts only: {problem}")


def _on_hub(model: str) -> bool:
    return "/" in model


def _from_hub(home: Home, model: str, revision: str | None, told: Callable[[int, int], None]) -> Path:
    from quantize.hub.pull import pull as pull_from_hub  # loads the hub's library, half a second

    folder = pull_from_hub(model, home.downloads / "hub", revision, told).folder
    note(f"the checkpoint stays in {folder}")
    return folder


def _check_unused(home: Home, name: str) -> None:
    if home.running_coordinator() is None:
        return
    with connect(home) as coordinator:
        for deployment in coordinator.deployments():
            if deployment.model == name:
                raise Conflict(f"{name} is deployed as {deployment.name}", advice=f"first: glmfleet undeploy {deployment.name}")
            if deployment.state == "unreadable":
                raise Conflict(f"deployment {deployment.name} cannot be read, and may be of {name}", advice=deployment.detail)


def _tell(home: Home, model: ModelView, evaluate: bool, as_json: bool) -> None:
    report = measure(home, model.name) if evaluate else None
    if as_json:
        print_json({**plain(model), "quality": plain(report)})
        return
    licence = model.license or "no licence stated"
    note(f"{model.name}: {parameters(model)} parameters, int{model.bits}, {bytes_text(model.size_bytes)}; {licence}")
    if model.notice:
        note(model.notice)
    if report:
        print_report(report)
    if (login := read_login(home)) is not None:
        note(f"it is on this machine alone; the coordinator at {login.address} has the models that are pulled or imported there")
