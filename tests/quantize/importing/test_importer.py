from __future__ import annotations

import errno
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from protos.errors import Corrupt, InvalidInput, NoSpace
from protos.manifest import ALIGNMENT, ModelConfig, Provenance, parse
from quantize.artifact.part_specs import MAX_POSITIONS
from quantize.artifact.store import ArtifactStore
from quantize.blocks import Floats, dequantize, quantize
from quantize.checkpoints.checkpoint import Checkpoint, tensor_shapes
from quantize.checkpoints.formats import open_checkpoint
from quantize.checkpoints.sampling_defaults import FoundSampling
from quantize.files import StagedFile
from quantize.importing.folding import RotatedCheckpoint
from quantize.importing.importer import default_block_size, import_model
from tests.quantize.conftest import Imported
from tests.support import oracle
from tests.support.checkpoints import TinyGlm, random_tensors, write_checkpoint

Get = Callable[..., Imported]

TIED_PARAMETERS = sum(values.size for values in random_tensors(TinyGlm(tied_head=True)).values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def _files(store: ArtifactStore) -> list[Path]:
    return sorted(path for path in store.blob_folder.parents[1].rglob("*") if path.is_file() and path.name != "lock")


@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_what_is_stored_is_the_checkpoint_quantized(imported: Get, block_size: int) -> None:
    artifact = imported(TinyGlm(), block_size, rotate=False)
    stored = oracle.load_weights(artifact.manifest, artifact.blob_folder)
    written = random_tensors(TinyGlm())
    attention = "model.layers.1.self_attn."
    pairs = {
        "embedding.weight": written["model.embed_tokens.weight"],
        "head.weight": written["lm_head.weight"],
        "layers.1.qkv.weight": np.concatenate([written[f"{attention}{name}_proj.weight"] for name in "qkv"]),
        "layers.1.o.weight": written[f"{attention}o_proj.weight"],
        "layers.1.gate_up.weight": written["model.layers.1.mlp.gate_up_proj.weight"],
        "layers.1.down.weight": written["model.layers.1.mlp.down_proj.weight"],
    }
    for name, weight in pairs.items():
        columns = weight.shape[1]
        assert np.array_equal(stored[name][:, :columns], dequantize(*quantize(weight, block_size), columns)), name
        assert (stored[name][:, columns:] == 0).all()
    assert np.array_equal(stored["layers.1.post_norm"], written["model.layers.1.post_attention_layernorm.weight"])
    assert np.array_equal(stored["head.norm"], written["model.norm.weight"])


def test_what_is_stored_by_default_is_the_rotated_checkpoint_quantized(imported: Get, folder: Path) -> None:
    artifact = imported(TinyGlm())
    stored = oracle.load_weights(artifact.manifest, artifact.blob_folder)
    with open_checkpoint(folder) as checkpoint:
        turned = RotatedCheckpoint(checkpoint)
        for name, (rows, *columns) in tensor_shapes(turned.config).items():
            expected = turned.read(name, 0, rows)
            if columns:
                assert np.array_equal(stored[name][:, : columns[0]], dequantize(*quantize(expected, 32), columns[0])), name
            else:
                assert np.array_equal(stored[name], expected), name


def test_the_manifest_says_whether_it_is_rotated(imported: Get) -> None:
    for rotate in (True, False):
        manifest = imported(TinyGlm(tied_head=True), rotate=rotate).manifest
        assert manifest.quantization.rotated == rotate
        assert manifest.config.tied_head != rotate
        assert manifest.provenance.parameters == TIED_PARAMETERS  # of the checkpoint, either way
        assert parse(manifest.to_bytes()) == manifest


@pytest.mark.parametrize("bits", [4, 8])
def test_only_8_bits_are_rotated_unless_it_is_asked_for(folder: Path, store: ArtifactStore, bits: Literal[4, 8]) -> None:
    with open_checkpoint(folder) as checkpoint:
        assert import_model(checkpoint, store, "plain", bits=bits).quantization.rotated == (bits == 8)
        assert import_model(checkpoint, store, "asked", bits=bits, rotate=True).quantization.rotated


def test_the_manifest_tells_every_byte(imported: Get) -> None:
    artifact = imported(TinyGlm())
    manifest = artifact.manifest
    assert manifest == artifact.store.verify("tiny")
    assert [part.name for part in manifest.parts] == ["embedding", "positions", "layers.0", "layers.1", "layers.2", "head"]
    assert [tensor.name for tensor in manifest.part("layers.0").variants[0].tensors] == [
        *("input_norm", "qkv.weight", "qkv.scales", "qkv.bias", "o.weight", "o.scales", "post_norm"),
        *("gate_up.weight", "gate_up.scales", "down.weight", "down.scales", "k_scale", "v_scale"),
    ]
    for part in manifest.parts:
        (variant,) = part.variants
        assert variant.layout == "matmulnbits.8.32"
        assert part.cost.weight_bytes == sum(tensor.size_bytes for tensor in variant.tensors)
        ends = [0]
        for tensor in variant.tensors:
            assert tensor.offset % ALIGNMENT == 0
            assert tensor.offset >= ends[-1]
            ends.append(tensor.offset + tensor.size_bytes)
        assert ends[-1] == variant.blobs[0].size_bytes == artifact.store.blob_path(variant.blobs[0].digest).stat().st_size


def test_a_tied_head_points_at_the_embeddings_bytes(imported: Get) -> None:
    manifest = imported(TinyGlm(tied_head=True), rotate=False).manifest
    embedding, head = manifest.part("embedding").variants[0], manifest.part("head").variants[0]
    assert head.blobs[1] == embedding.blobs[0]
    assert [(tensor.name, tensor.blob) for tensor in head.tensors] == [("norm", 0), ("weight", 1), ("scales", 1)]
    weight, scales = head.tensors[1:]
    assert weight.shape == (272, 3, 32)
    assert [tensor.offset for tensor in embedding.tensors] == [weight.offset, scales.offset]
    assert manifest.part("head").cost.weight_bytes == 72 * 4 + 272 * 96 + 272 * 3 * 4


def test_the_same_checkpoint_gives_the_same_digest_from_anywhere(tmp_path: Path) -> None:
    digests = set()
    for place in ("one", "two"):
        with open_checkpoint(write_checkpoint(tmp_path / place)) as checkpoint:
            digests.add(import_model(checkpoint, ArtifactStore(tmp_path / f"store-{place}"), place).digest)
    assert len(digests) == 1


def test_progress_ends_at_all(folder: Path, store: ArtifactStore) -> None:
    seen: list[tuple[int, int, str]] = []
    with open_checkpoint(folder) as checkpoint:
        manifest = import_model(checkpoint, store, "tiny", progress=lambda *figures: seen.append(figures))
    total = sum(part.variants[0].blobs[0].size_bytes for part in manifest.parts)
    assert seen[-1] == (total, total, "head")
    assert [done for done, _, _ in seen] == sorted({done for done, _, _ in seen})
    assert {part for _, _, part in seen} == {part.name for part in manifest.parts}


@pytest.mark.parametrize("part", ["embedding", "layers.1", "head"])
def test_an_import_broken_off_leaves_no_model_and_goes_on_from_what_it_had(folder: Path, store: ArtifactStore, part: str) -> None:
    def interrupt(done: int, total: int, at: str) -> None:
        if at == part:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_checkpoint(folder) as checkpoint:
        import_model(checkpoint, store, "tiny", progress=interrupt)
    assert store.list() == ()
    assert not [path for path in _files(store) if path.name.startswith(".")]
    kept = {path: path.stat().st_mtime_ns for path in _files(store)}
    with open_checkpoint(folder) as checkpoint:
        import_model(checkpoint, store, "tiny")
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())
    store.verify("tiny")


def test_a_second_import_with_other_blocks_leaves_only_its_own(folder: Path, store: ArtifactStore) -> None:
    for block_size in (32, 64):
        with open_checkpoint(folder) as checkpoint:
            manifest = import_model(checkpoint, store, "tiny", block_size=block_size)
    assert {path.name for path in store.blob_folder.iterdir()} == set(manifest.blobs())


def test_a_full_disk_leaves_no_half_state(folder: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write, room = StagedFile.write, 30_000

    def write_until_full(file: StagedFile, data: bytes | memoryview) -> None:
        nonlocal room
        room -= len(data)
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(StagedFile, "write", write_until_full)
    with pytest.raises(NoSpace, match="is full") as caught, open_checkpoint(folder) as checkpoint:
        import_model(checkpoint, store, "tiny")
    assert caught.value.advice
    assert store.list() == ()
    assert not [path for path in _files(store) if path.name.startswith(".")]


def test_a_weight_that_is_not_finite_stops_it(tmp_path: Path, store: ArtifactStore) -> None:
    class Damaged(_Renamed):
        def read(self, name: str, start: int, stop: int) -> Floats:
            rows = self.checkpoint.read(name, start, stop)
            if name in ("layers.2.down.weight", "layers.2.post_norm"):
                rows[0] = np.nan if self.what in name else rows[0]
            return rows

    for what in ("layers.2.down.weight", "layers.2.post_norm"):
        with pytest.raises(InvalidInput, match=what), open_checkpoint(write_checkpoint(tmp_path / "checkpoint")) as checkpoint:
            import_model(Damaged(checkpoint, what), store, "tiny")
    assert store.list() == ()


class _Renamed:
    """A checkpoint behind another."""

    def __init__(self, checkpoint: Checkpoint, what: str = "") -> None:
        self.checkpoint = checkpoint
        self.what = what

    @property
    def config(self) -> ModelConfig:
        return self.checkpoint.config

    @property
    def provenance(self) -> Provenance:
        return self.checkpoint.provenance

    @property
    def text_files(self) -> Mapping[str, bytes]:
        return self.checkpoint.text_files

    @property
    def sampling(self) -> FoundSampling:
        return self.checkpoint.sampling

    def read(self, name: str, start: int, stop: int) -> Floats:
        return self.checkpoint.read(name, start, stop)


@pytest.mark.parametrize("rotate", [True, False])
def test_a_matrix_is_read_in_slabs(folder: Path, store: ArtifactStore, rotate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    class Watched(_Renamed):
        def read(self, name: str, start: int, stop: int) -> Floats:
            nonlocal largest
            rows = self.checkpoint.read(name, start, stop)
            largest = max(largest, math.prod(rows.shape))
            return rows

    with open_checkpoint(folder) as checkpoint:
        whole = import_model(checkpoint, store, "whole", rotate=rotate)
        monkeypatch.setattr("quantize.checkpoints.checkpoint.SLAB_ELEMENTS", 2000)
        slabs = import_model(Watched(checkpoint), store, "slabs", rotate=rotate)
    # A slab that begins and ends inside value heads is read with the rest of both.
    assert 0 < largest <= 2000 + (2 * 15 * 72 if rotate else 0)
    assert slabs.digest == whole.digest


@pytest.mark.parametrize(("name", "block_size"), [("Not A Name", 32), ("tiny", 48)])
def test_what_cannot_be_is_refused_before_anything_is_written(folder: Path, store: ArtifactStore, name: str, block_size: int) -> None:
    with pytest.raises(InvalidInput), open_checkpoint(folder) as checkpoint:
        import_model(checkpoint, store, name, block_size=block_size)
    assert not _files(store)


def test_contexts_beyond_the_tables_are_cut(tmp_path: Path, store: ArtifactStore) -> None:
    with open_checkpoint(write_checkpoint(tmp_path / "long", TinyGlm(max_positions=131_072))) as checkpoint:
        manifest = import_model(checkpoint, store, "long")
    assert manifest.config.max_positions == MAX_POSITIONS
    assert manifest.part("positions").variants[0].tensors[0].shape == (MAX_POSITIONS, 8)


def test_one_flipped_bit_names_every_part_that_uses_the_bytes(tmp_path: Path, store: ArtifactStore) -> None:
    with open_checkpoint(write_checkpoint(tmp_path / "tied", TinyGlm(tied_head=True))) as checkpoint:
        manifest = import_model(checkpoint, store, "tiny", rotate=False)
    path = store.blob_path(manifest.part("embedding").variants[0].blobs[0].digest)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="model tiny: embedding and head is not what its digest says"):
        store.verify("tiny")


def test_default_block_size(imported: Get) -> None:
    config = imported(TinyGlm()).manifest.config
    assert default_block_size(config) == 32
    assert default_block_size(ModelConfig(**{**vars(config), "hidden_size": 2048})) == 128
