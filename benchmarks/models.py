"""The models that speed is measured with: the packaged default one, and GLM-Edge-1.5B's shape with random weights."""

from __future__ import annotations

import json
import math
import pydoc_data.topics
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.gguf_file import write_q8_0
from device.text.model import TextModel
from protos.errors import Corrupt, NotFound
from protos.manifest import Manifest, ModelConfig, Provenance
from quantize.artifact.store import ArtifactStore
from quantize.blocks import Floats
from quantize.checkpoints.checkpoint import Checkpoint, tensor_shapes
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.sampling_defaults import FoundSampling
from quantize.hub.catalog import DEFAULT_MODEL, fetch
from quantize.importing.importer import import_model

EDGE = "glm-edge-1.5b-random"
NAMES = (DEFAULT_MODEL, EDGE)
_EOS = (59246, 59253, 59255)
_ROWS = 512  # generated at once: the same weights whatever rows are asked for


@dataclass(frozen=True)
class BenchModel:
    """`artifacts` is the root of the store that holds `name`; `gguf` is the same weights as Q8_0."""

    name: str
    artifacts: Path
    manifest: Manifest
    gguf: Path
    blob_folder: Path
    text: bool  # its prompts are text, and not random token ids

    def prompt(self, tokens: int, seed: int) -> list[int]:
        """Token ids that no other seed's prompt begins with, so that no cached prefix serves them."""
        random = np.random.default_rng(seed)
        if not self.text:
            return [int(token) for token in random.integers(0, min(self.manifest.config.eos_token_ids), tokens)]
        ids = _text_ids(self)
        start = int(random.integers(0, len(ids) - tokens))
        return ids[start : start + tokens]


def prepare(name: str, cache: Path, *, fresh: bool = False) -> BenchModel:
    """Made once and kept in `cache` (300 MB, and 3.4 GB for the large one); `fresh` makes it anew. Raises NotFound for another name."""
    if name not in NAMES:
        raise NotFound(f"no benchmark model {name!r}", advice=f"choose of: {', '.join(NAMES)}")
    folder = cache / name
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    store, gguf = ArtifactStore(folder / "artifacts"), folder / "q8_0.gguf"
    try:
        manifest = store.load(name)
    except (NotFound, Corrupt):
        with _checkpoint(name, cache) as checkpoint:
            # Random weights have no outliers for a rotation to spread.
            manifest = import_model(checkpoint, store, name, rotate=name != EDGE)
    if not gguf.exists():
        with _checkpoint(name, cache) as checkpoint:
            write_q8_0(checkpoint, gguf)
    return BenchModel(name, folder / "artifacts", manifest, gguf, store.blob_folder, text=name != EDGE)


@dataclass(frozen=True)
class RandomCheckpoint:
    """A checkpoint that exists nowhere: each run of rows is drawn when it is read, the same for the same name. See `Checkpoint`."""

    config: ModelConfig
    text_files: Mapping[str, bytes]

    @property
    def provenance(self) -> Provenance:
        return Provenance("random weights of a benchmark", "CC0-1.0", "")

    @property
    def sampling(self) -> FoundSampling:
        return FoundSampling()

    def read(self, name: str, start: int, stop: int) -> Floats:
        shape = tensor_shapes(self.config)[name]
        if len(shape) == 1:
            return np.ones(stop - start, np.float32)
        blocks = range(start // _ROWS, -(-stop // _ROWS))
        rows = np.concatenate([self._block(name, shape, block) for block in blocks])
        offset = blocks.start * _ROWS
        return np.ascontiguousarray(rows[start - offset : stop - offset])

    def _block(self, name: str, shape: tuple[int, ...], block: int) -> Floats:
        rows = min(_ROWS, shape[0] - block * _ROWS)
        random = np.random.default_rng([zlib.crc32(name.encode()), block])
        return random.standard_normal((rows, shape[1]), np.float32) / np.float32(math.sqrt(shape[1]))


def glm_edge() -> RandomCheckpoint:
    """zai-org/glm-edge-1.5b-chat's shape: its config.json, with the stored (not tied) head."""
    config = ModelConfig(
        architecture="GlmForCausalLM",
        hidden_size=2048,
        layers=28,
        heads=16,
        kv_heads=4,
        head_dim=128,
        intermediate_size=6144,
        vocab_size=59264,
        norm_epsilon=1e-5,
        rope_theta=1e4,
        rotary_dim=128,
        qkv_bias=False,
        tied_head=False,
        max_positions=8192,
        eos_token_ids=_EOS,
    )
    return RandomCheckpoint(config, {"tokenizer.json": numbered_words(config.vocab_size)})


def numbered_words(vocabulary: int, special: Mapping[str, int] | None = None) -> bytes:
    """A tokenizer.json whose every token is a word of its own, but for `special` ones: what is generated is text, whatever ids come."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    words = {f"Ġw{number}": number for number in range(vocabulary)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": number, "content": text, **flags} for text, number in (special or {}).items()]
    words = {word: number for word, number in words.items() if number not in {token["id"] for token in added}}
    model = {"type": "BPE", "vocab": {**words, **(special or {})}, "merges": []}
    return json.dumps(
        {"version": "1.0", "added_tokens": added, "pre_tokenizer": byte_level, "decoder": byte_level, "model": model}
    ).encode()


def _checkpoint(name: str, cache: Path) -> AbstractContextManager[Checkpoint]:
    return _given(glm_edge()) if name == EDGE else open_checkpoint(fetch(name, cache))


@contextmanager
def _given(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    yield checkpoint


_ids: dict[Path, list[int]] = {}


def _text_ids(model: BenchModel) -> list[int]:
    """Of CPython's own documentation, 80,000 characters of it."""
    if model.artifacts not in _ids:
        files = {file.name: (model.blob_folder / file.blob.digest).read_bytes() for file in model.manifest.text_files}
        text = TextModel.load(files, model.manifest.config.eos_token_ids, model.manifest.config.vocab_size)
        _ids[model.artifacts] = text.encode("\n".join(pydoc_data.topics.topics.values())[:80_000])
    return _ids[model.artifacts]
