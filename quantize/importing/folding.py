"""A checkpoint whose residual stream and value heads are rotated, folded into the weights: the same function, kinder to int8.

RMSNorm without a gain commutes with an orthogonal Q, so a decoder computes the same on rotated rows h Q when every matrix that reads
the stream becomes W diag(gain) Q, every one that writes it Q^T W, and the embedding E Q. Likewise a value head may be rotated when the
columns of the output projection for the query heads that share it are; queries and keys stay, because of RoPE. A rotated row has no
outlying element, from which rounding to int8 suffers most: QuaRot (arXiv:2404.00456) and SpinQuant (arXiv:2405.16406) without their
parts that need data or further operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from protos.errors import InvalidInput
from protos.manifest import ModelConfig, Provenance
from quantize.architectures.registry import architecture_of
from quantize.blocks import Floats, check_finite, padded
from quantize.checkpoints.checkpoint import Checkpoint, slabs, tensor_shapes
from quantize.checkpoints.sampling_defaults import FoundSampling
from quantize.importing.rotation import random_rotation
from quantize.layers.stream import Folding, folding_of

# Chosen among 24 on the default model: benchmarks/README.md, Quality, says how.
SEED = 11


def model_folding(config: ModelConfig) -> Folding | None:
    """Of all layers at once; None: the residual stream may not be rotated."""
    layers = [folding_of(architecture_of(config).layer(config, number)) for number in range(config.layers)]
    known = [folding for folding in layers if folding]
    if len(known) < len(layers):
        return None
    return Folding(
        {reader: norm for folding in known for reader, norm in folding.readers.items()},
        frozenset(writer for folding in known for writer in folding.writers),
    )


class RotatedCheckpoint:
    """See `quantize.checkpoints.checkpoint.Checkpoint`. Norms are ones, and a tied head is a matrix of its own: it alone has the last gain.

    A matrix that writes the stream is rotated whole at its first rows and kept until its last have been read; all else goes by slabs.
    """

    def __init__(self, checkpoint: Checkpoint, seed: int = SEED) -> None:
        """Raises InvalidInput when the architecture has no stream that may be rotated."""
        folding = model_folding(checkpoint.config)
        if folding is None:
            raise InvalidInput(f"{checkpoint.config.architecture} cannot be rotated", advice="import it without the rotation")
        self.config: ModelConfig = replace(checkpoint.config, tied_head=False)
        self._folding = folding
        self._norms = frozenset(self._folding.readers.values())
        self._checkpoint = checkpoint
        self._head_source = "embedding.weight" if checkpoint.config.tied_head else "head.weight"
        self._shapes = tensor_shapes(self.config)
        self._stream = random_rotation(self.config.hidden_size, f"glmfleet residual {seed}")
        self._value = random_rotation(self.config.head_dim, f"glmfleet value {seed}")
        self._kept: tuple[str, Floats] | None = None

    @property
    def provenance(self) -> Provenance:
        return self._checkpoint.provenance

    @property
    def text_files(self) -> Mapping[str, bytes]:
        return self._checkpoint.text_files

    @property
    def sampling(self) -> FoundSampling:
        return self._checkpoint.sampling

    def read(self, name: str, start: int, stop: int) -> Floats:
        """Rows [start, stop) of the rotated tensor. Raises InvalidInput, also for a gain that is not finite."""
        # What is not finite stays so through sums and products, and the quantizer refuses it by name.
        with np.errstate(over="ignore", invalid="ignore"):
            if name.startswith("layers."):
                layer, inner = name[: name.index(".", len("layers.")) + 1], name[name.index(".", len("layers.")) + 1 :]
                return self._read_of_layer(layer, inner, start, stop)
            match name:
                case "head.norm":
                    return self._ones(name, start, stop)
                case "embedding.weight":
                    return self._stream.rotate_rows(self._checkpoint.read(name, start, stop))
                case "head.weight":
                    return self._read_reader(self._head_source, "head.norm", start, stop)
                case _:
                    raise KeyError(name)

    def _read_of_layer(self, layer: str, inner: str, start: int, stop: int) -> Floats:
        folding, name = self._folding, layer + inner
        part, _, tensor = inner.rpartition("qkv.")
        if inner in self._norms:
            return self._ones(name, start, stop)
        if tensor in ("weight", "bias") and f"{part}qkv.weight" in folding.readers:
            return self._read_qkv(name, layer + folding.readers[f"{part}qkv.weight"], start, stop)
        if inner in folding.readers:
            return self._read_reader(name, layer + folding.readers[inner], start, stop)
        if inner in folding.writers:
            by_heads = inner.endswith("o.weight") and f"{inner.removesuffix('o.weight')}qkv.weight" in folding.readers
            return self._read_writer(name, start, stop, by_heads=by_heads)
        return self._checkpoint.read(name, start, stop)

    def _ones(self, norm: str, start: int, stop: int) -> Floats:
        self._gain(norm)
        return np.ones(stop - start, np.float32)

    def _gain(self, norm: str) -> Floats:
        gain = self._checkpoint.read(norm, 0, self.config.hidden_size)
        check_finite(gain, norm)
        return gain

    def _read_reader(self, name: str, norm: str, start: int, stop: int) -> Floats:
        return self._stream.rotate_rows(self._checkpoint.read(name, start, stop) * self._gain(norm))

    def _read_qkv(self, name: str, norm: str, start: int, stop: int) -> Floats:
        """Rows of whole value heads are read, since a head's rows mix."""
        first, size = self.config.query_size + self.config.kv_size, self.config.head_dim
        low = min(start, first + max(start - first, 0) // size * size)
        high = max(stop, first + padded(stop - first, size)) if stop > first else stop
        rows = self._read_reader(name, norm, low, high) if name.endswith("weight") else self._checkpoint.read(name, low, high).copy()
        for head in rows[max(first - low, 0) :].reshape(-1, size, *(rows.shape[1:] or (1,))):
            self._value.rotate_columns(head)
        return rows[start - low : stop - low]

    def _read_writer(self, name: str, start: int, stop: int, *, by_heads: bool) -> Floats:
        if self._kept is None or self._kept[0] != name:
            self._kept = None  # before the next is made
            self._kept = (name, self._rotate_writer(name, by_heads))
        matrix = self._kept[1]
        if stop == len(matrix):
            self._kept = None
        return matrix[start:stop]

    def _rotate_writer(self, name: str, by_heads: bool) -> Floats:
        matrix = np.empty(self._shapes[name], np.float32)
        for start, stop in slabs(*matrix.shape):
            rows = self._checkpoint.read(name, start, stop)
            if by_heads:
                rows = self._value.rotate_rows(rows.reshape(-1, self.config.head_dim)).reshape(rows.shape)
            matrix[start:stop] = rows
        self._stream.rotate_columns(matrix)
        return matrix
