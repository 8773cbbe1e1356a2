"""Checkpoint in, artifact out: tensor by tensor, a slab of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Literal

import numpy as np

from protos.errors import Busy, Corrupt, InvalidInput
from protos.manifest import Blob, Manifest, ModelConfig, Part, Quantization, Tensor, TextFile, Variant
from quantize.artifact.golden import record
from quantize.artifact.journal import Journal, Whole, open_journal, program_identity
from quantize.artifact.part_specs import MAX_POSITIONS, PartSpec, TensorSpec, layout_name, part_specs
from quantize.artifact.schemes import Scheme, scheme_of
from quantize.artifact.store import ArtifactStore, BlobWriter
from quantize.blocks import Bytes, Floats, check_finite
from quantize.checkpoints.checkpoint import Checkpoint, slabs, tensor_shapes
from quantize.importing.calibration import GOLDEN_TOKENS, Calibration
from quantize.importing.calibration_text import calibration_ids
from quantize.importing.folding import RotatedCheckpoint, model_folding
from quantize.layers.positions import rotary_tables
from quantize.parts import EMBEDDING, KEY_SCALES, POSITIONS, VALUE_SCALES, layer_number
from quantize.sources import Shapes

Progress = Callable[[int, int, str], None]


def default_block_size(config: ModelConfig) -> int:
    """32 for small models, whose quality needs it; else 128, whose scales take a quarter of the memory traffic (both measured); 64, the
    largest that computes any number of rows alike, for a mixture of experts, whose experts get any number."""
    return 32 if config.hidden_size < 1024 else 128 if config.experts is None else 64


def import_model(
    checkpoint: Checkpoint,
    store: ArtifactStore,
    name: str,
    *,
    bits: Literal[4, 8, 32] = 8,
    symmetric: bool = True,
    block_size: int | None = None,
    rotate: bool | None = None,
    source: str | None = None,
    progress: Progress = lambda done, total, part: None,
) -> Manifest:
    """Quantizes `checkpoint` into `store` as model `name`, which exists when this returns and not before; returns its manifest.

        >>> store = ArtifactStore(root)
        >>> with open_checkpoint(path) as checkpoint:
        ...     manifest = import_model(checkpoint, store, "tiny")
        >>> [part.name for part in manifest.parts]
        ['embedding', 'positions', 'layers.0', 'layers.1', 'layers.2', 'head']
        >>> store.load("tiny").digest == manifest.digest
        True

    bits: of the layers' weights; embedding and output head have 8 beside 4. 32 keeps all in float32, the reference that an int8 artifact
        is judged against, in the same graphs.
    symmetric: levels lie around a zero point in their middle; else each block has one of its own.
    block_size: weights [out, in] share a scale along `in`, 32, 64 or 128 at a time; None: `default_block_size`. 32 bits have no blocks.
    rotate: folds a rotation of the residual stream into the weights (`quantize.importing.folding`), where the architecture allows it;
        None: with 8 and 32 bits, since 4 lose by it (benchmarks/README.md).
    source: names the checkpoint's bytes (`quantize.artifact.journal.source_identity`): an import that was broken off, however hard, goes
        on behind its last whole layer when it is started again with the same options. None: it begins anew.
    progress: gets (bytes written, bytes in all, part).

    Contexts beyond MAX_POSITIONS are cut to it. Memory: a few slabs (`quantize.checkpoints.checkpoint.SLAB_ELEMENTS`), the largest matrix
    that writes the stream where it is rotated, and 256 tokens' rows in float64.
    Raises InvalidInput (a weight that is not finite, a block size, scheme or name that cannot be), NoSpace. What had been written is then
    no model's: it waits for the same import with its `source`, or goes with the next `ArtifactStore.collect`.
    """
    store.check_name(name)
    provenance = replace(checkpoint.provenance, parameters=_parameters(checkpoint.config))
    rotate = (bits != 4 if rotate is None else rotate) and model_folding(checkpoint.config) is not None
    checkpoint = RotatedCheckpoint(checkpoint) if rotate else checkpoint
    config = replace(checkpoint.config, max_positions=min(checkpoint.config.max_positions, MAX_POSITIONS))
    if bits == 32:
        quantization = Quantization(bits=32, block_size=0, symmetric=True, rotated=rotate, outer_bits=32)
    else:
        block_size = default_block_size(config) if block_size is None else block_size
        Scheme(bits, block_size, symmetric).check()
        if config.experts and (block_size > 64 or bits == 4 or not symmetric):
            what = f"block size {block_size}" if block_size > 64 else layout_name(Quantization(bits, block_size, symmetric))
            raise InvalidInput(
                f"{what} is not for a mixture of experts: a text would depend on others beside it",
                advice="choose symmetric 8 bits in blocks of 32 or 64",
            )
        quantization = Quantization(bits=bits, block_size=block_size, symmetric=symmetric, rotated=rotate, outer_bits=8)
    specs = tuple(part_specs(config, quantization))
    shapes = tensor_shapes(config)
    token_ids = calibration_ids(checkpoint.text_files["tokenizer.json"], config.vocab_size)
    calibration = Calibration(config, token_ids)
    meter = _Meter(sum(spec.size_bytes for spec in specs), progress)
    identity = (source or "", program_identity(), repr((config, quantization)))
    with _tidied(store), store.importing(), open_journal(store.imports, *identity) if source else nullcontext() as journal:

        def written(spec: PartSpec) -> Blob:
            with store.new_blob() as writer:
                for tensor, chunk in _chunks(spec, shapes, checkpoint, config, scheme_of(quantization, spec.name), calibration):
                    _write(writer, tensor, chunk, meter)
                return writer.commit()

        blobs = _write_parts(specs, written, calibration, meter, journal, store)
        text_files = tuple(TextFile(file, store.put(data)) for file, data in sorted(checkpoint.text_files.items()))
        manifest = Manifest(
            config=config,
            quantization=quantization,
            provenance=provenance,
            parts=tuple(_part(spec, blobs, layout_name(quantization)) for spec in specs),
            text_files=text_files,
            sampling=checkpoint.sampling.defaults,
        )
        golden = record(manifest, token_ids[:GOLDEN_TOKENS], calibration.stream(), store)
        manifest = replace(manifest, golden=golden)
        store.save(name, manifest)
    return manifest


@contextmanager
def _tidied(store: ArtifactStore) -> Iterator[None]:
    """Frees what nothing names, after an import that ended: well, or where another would end too."""
    try:
        yield
    except InvalidInput:
        _collect(store)
        raise
    _collect(store)


def _collect(store: ArtifactStore) -> None:
    with suppress(Busy, Corrupt):  # another import is running, or another model is damaged: the next one cleans up
        store.collect()


def _write_parts(
    specs: Sequence[PartSpec],
    written: Callable[[PartSpec], Blob],
    calibration: Calibration,
    meter: _Meter,
    journal: Journal | None,
    store: ArtifactStore,
) -> dict[str, Blob]:
    """Blobs by part: those of the journal, and the rest `written`, in order."""
    done = journal.read(store.blob_folder) if journal else Whole({}, None)
    blobs = dict(done.blobs)
    if done.hidden is not None:
        calibration.resume(done.hidden)
    for number, spec in enumerate(specs):
        meter.part = spec.name
        if spec.name in blobs:
            meter.advance(spec.size_bytes)
            continue
        blobs[spec.name] = written(spec)
        if journal:
            layer = layer_number(spec.name)
            within = layer is not None and number + 1 < len(specs) and layer_number(specs[number + 1].name) == layer
            journal.add(spec.name, blobs[spec.name], None if within else calibration.settle())
    return blobs


class _Meter:
    def __init__(self, total_bytes: int, progress: Progress) -> None:
        self.part = ""
        self._done = 0
        self._total = total_bytes
        self._progress = progress

    def advance(self, count_bytes: int) -> None:
        self._done += count_bytes
        self._progress(self._done, self._total, self.part)


def _write(writer: BlobWriter, tensor: TensorSpec, chunk: np.ndarray, meter: _Meter) -> None:
    before = writer.size_bytes
    if before < tensor.offset:
        writer.pad_to(tensor.offset)
    writer.write(np.ascontiguousarray(chunk).data.cast("B"))
    meter.advance(writer.size_bytes - before)


def _chunks(
    spec: PartSpec, shapes: Shapes, checkpoint: Checkpoint, config: ModelConfig, scheme: Scheme, calibration: Calibration
) -> Iterator[tuple[TensorSpec, np.ndarray]]:
    """What the part's own blob holds, in order. Scales and zero points follow their weights, so they are kept until those are written."""
    if spec.name == POSITIONS:
        yield from zip(spec.own, rotary_tables(config), strict=True)
        return
    scales: list[Floats] = []
    zeros: list[Bytes] = []
    layer, within = layer_number(spec.name), spec.name.partition(".")[2].partition(".")[2]
    for tensor in spec.own:
        source = f"{spec.name}.{tensor.name}"
        inner = f"{within}.{tensor.name}" if within else tensor.name
        if tensor.name.endswith("weight"):
            rows, columns = shapes[source]
            importance = None if layer is None else calibration.begin(layer, inner)
            for start, stop in slabs(rows, columns):
                values = checkpoint.read(source, start, stop)
                stored: np.ndarray = values
                if tensor.dtype == "uint8":
                    slab = scheme.quantize(values, source, importance)
                    scales.append(slab.scales)
                    if slab.zero_points is not None:
                        zeros.append(slab.zero_points)
                    stored, values = slab.weight, scheme.dequantize(slab, columns)
                else:
                    check_finite(values, source)
                if layer is not None:
                    calibration.multiply(values)
                elif spec.name == EMBEDDING:
                    calibration.embed(start, values)
                yield tensor, stored
        elif tensor.name == KEY_SCALES:
            yield tensor, calibration.key_scales
        elif tensor.name == VALUE_SCALES:
            yield tensor, calibration.value_scales
        elif tensor.name.endswith("scales"):
            yield tensor, np.concatenate(scales)
            scales = []
        elif tensor.name.endswith("zero_points"):
            yield tensor, np.concatenate(zeros)
            zeros = []
        else:
            values = checkpoint.read(source, 0, tensor.shape[0])
            check_finite(values, source)
            if layer is not None:
                calibration.keep(layer, inner, values)
            elif spec.name == EMBEDDING:
                calibration.add_to_tokens(values if tensor.name == "positions" else values[:1])
            yield tensor, values


def _parameters(config: ModelConfig) -> int:
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


def _part(spec: PartSpec, blobs: dict[str, Blob], layout: str) -> Part:
    owners = list(dict.fromkeys([spec.name, *(tensor.owner for tensor in spec.tensors)]))
    tensors = tuple(Tensor(t.name, t.dtype, t.shape, owners.index(t.owner), t.offset) for t in spec.tensors)
    return Part(spec.name, spec.cost, (Variant(layout, tuple(blobs[owner] for owner in owners), tensors),))
