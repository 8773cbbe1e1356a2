"""Measures an artifact against its source checkpoint in fp32, both on the engine that devices run. Needs onnxruntime."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from device.engine.session import ENGINE
from fleet.answering.infill import fills_blanks
from fleet.answering.prompts import load_text
from fleet.cli.output import note
from fleet.cli.progress import progress
from fleet.cli.versions import EngineVersion
from fleet.home import Home
from protos.dtypes import KvDtype
from protos.errors import InvalidInput, NotFound
from protos.manifest import Manifest, ModelConfig
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.checkpoint import Checkpoint
from quantize.checkpoints.formats import open_checkpoint
from quantize.hub.catalog import fetch
from quantize.importing.importer import import_model
from quantize.quality.plot import draw
from quantize.quality.reference_file import ReferenceSequence, read_reference
from quantize.quality.report import Circumstances, QualityReport, Reference, make_report
from quantize.quality.scores import WindowScore, distance, score
from quantize.quality.walk import Walk
from quantize.quality.windows import DEFAULT_TEXT, WINDOW_TOKENS, Window, continued_windows, default_text, filled_window, windows


@dataclass(frozen=True)
class EvaluationRequest:
    """`text` a UTF-8 file (None: the one that every Python has), `reference` an .npz of another framework's logits."""

    text: Path | None = None
    tokens: int = 8192
    reference: Path | None = None
    kv_dtype: KvDtype = "float32"


def evaluate(home: Home, name: str, request: EvaluationRequest) -> QualityReport:
    """Measures, keeps the report and its plot beside the model, returns it. Raises FleetError.

    The fp32 side is imported into a temporary folder of the home: four bytes a weight, gone afterwards.
    """
    store = ArtifactStore(home.artifacts)
    manifest = store.load(name)
    limit = min(WINDOW_TOKENS, manifest.config.max_positions)
    sequences = read_reference(request.reference, manifest.config.vocab_size, manifest.config.max_positions) if request.reference else []
    parts = _windows(store, manifest, request, limit)
    compared = [_window(sequence, manifest.config) for sequence in sequences]
    with tempfile.TemporaryDirectory(dir=home.path, prefix=".evaluation-") as folder, _source(home, name, manifest) as checkpoint:
        truth = ArtifactStore(Path(folder))
        with progress(of_bytes=True) as told:
            fp32 = import_model(
                checkpoint,
                truth,
                "fp32",
                bits=32,
                rotate=manifest.quantization.rotated,
                progress=lambda done, total, part: told("read the checkpoint in fp32", done, total),
            )
        longest = max(len(window.token_ids) for window in [*parts, *compared])
        threads = os.cpu_count() or 1
        versions = (
            EngineVersion(fp32, truth.blob_folder, longest, threads),
            EngineVersion(manifest, store.blob_folder, longest, threads, request.kv_dtype),
        )
        report = _measure(versions, parts, [*zip(sequences, compared, strict=True)], request)
    store.records.save_quality(manifest.digest, report, draw(f"{name}: {_weights(manifest)} against fp32", report))
    return report


def _measure(
    versions: tuple[EngineVersion, EngineVersion],
    parts: list[Window],
    sequences: Sequence[tuple[ReferenceSequence, Window]],
    request: EvaluationRequest,
) -> QualityReport:
    scores: list[WindowScore] = []
    with progress(of_bytes=False) as told:
        walk = Walk(versions, parts, lambda done, total: told("measure", done, total))
        for window, (truth, found) in zip(parts, walk.logits(), strict=True):
            scores.append(score(truth, found, window))
    manifest = versions[1].manifest
    circumstances = Circumstances(
        text=(request.text.name if request.text else DEFAULT_TEXT) + (" (of each window the second half)" if parts[0].prefix else ""),
        tokens=sum(len(window.token_ids) for window in parts),
        window_tokens=max(len(window.token_ids) for window in parts),
        kv_dtype=request.kv_dtype,
        engine=ENGINE,
        source=manifest.provenance.source,
        date=datetime.now(UTC).date().isoformat(),
    )
    reference = _compare(versions, sequences, request.reference) if request.reference else None
    return make_report(circumstances, scores, walk.layer_squares[0], reference)


def _compare(versions: tuple[EngineVersion, EngineVersion], sequences: Sequence[tuple[ReferenceSequence, Window]], file: Path) -> Reference:
    with progress(of_bytes=False) as told:
        walk = Walk(versions, [window for _, window in sequences], lambda done, total: told("compare", done, total))
        pairs = list(zip([sequence for sequence, _ in sequences], walk.logits(), strict=True))
    fp32, int8 = (distance([(sequence.logits, found[version]) for sequence, found in pairs]) for version in (0, 1))
    return Reference(file.name, len(sequences), fp32, int8)


def _windows(store: ArtifactStore, manifest: Manifest, request: EvaluationRequest, window_tokens: int) -> list[Window]:
    model = load_text(store, manifest)
    try:
        text = request.text.read_text(encoding="utf-8") if request.text else default_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{request.text} cannot be read: {error}", advice="--text takes a plain UTF-8 file") from error
    with model.maker(len(text)) as maker:
        token_ids = maker.encode(text)
        before, behind = maker.frame if fills_blanks(manifest.config) else ([], [])
    if not fills_blanks(manifest.config):
        return windows(token_ids, request.tokens, window_tokens)
    body = token_ids[len(before) : len(token_ids) - len(behind)]
    return continued_windows(body, (before, behind), request.tokens, window_tokens, manifest.config)


def _window(sequence: ReferenceSequence, config: ModelConfig) -> Window:
    return filled_window(sequence.token_ids, config) if fills_blanks(config) else Window(sequence.token_ids)


@contextmanager
def _source(home: Home, name: str, manifest: Manifest) -> Iterator[Checkpoint]:
    """The checkpoint that the model was made of. Raises NotFound when it is gone and cannot be fetched again."""
    source = ArtifactStore(home.artifacts).records.source(manifest.digest)
    if source is None:
        raise NotFound(f"it is not recorded which checkpoint {name} was made of", advice="import or pull the model again, then measure it")
    path = Path(source.path)
    if not path.exists():
        if not source.pulled or "/" in source.pulled:
            again = f"model pull {source.pulled}" if source.pulled else "model import PATH"
            raise NotFound(f"the checkpoint of {name} is gone: {path}", advice=f"put it back, or: glmfleet {again} --name {name}")
        note(f"{path.name} is gone; it is fetched again")
        with progress(of_bytes=True) as told:
            path = fetch(source.pulled, home.downloads, lambda done, total: told("download", done, total))
    adapter = Path(source.adapter) if source.adapter else None
    if adapter is not None and not adapter.exists():
        raise NotFound(f"the adapter of {name} is gone: {adapter}", advice="put it back, or import the model again with it")
    with open_checkpoint(path, adapter) as checkpoint:
        if (checkpoint.config.layers, checkpoint.config.hidden_size) != (manifest.config.layers, manifest.config.hidden_size):
            raise InvalidInput(f"{path} holds another model than {name} was made of", advice="put the checkpoint back, or import it again")
        yield checkpoint


def _weights(manifest: Manifest) -> str:
    quantization = manifest.quantization
    return f"int{quantization.bits} in blocks of {quantization.block_size}{'' if quantization.symmetric else ' with zero points'}"
