"""Golden rows: what an import recorded of a few tokens' way through the layers, for devices to check themselves by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protos.dtypes import KvDtype
from protos.errors import Corrupt
from protos.even import even_down
from protos.ids import digest_of
from protos.manifest import Blob, GoldenRows, Manifest
from quantize.architectures.registry import architecture_of
from quantize.artifact.graph import build_stage_graph
from quantize.artifact.schemes import Stored, scheme_of
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.checkpoint import slabs
from quantize.layers.reference import BlockRun, Doubles
from quantize.parts import HEAD

# In rms of what a stage's layers add, see device/engine/golden.py. On the default model int8 activations are off by 0.05 at most whatever
# the cut, with an int8 cache by 0.10. A scale with a flipped exponent bit is off by 0.3 to 1e37, 4 KiB of zeros in "o" by 1.5 in its layer.
_TOLERANCE: dict[KvDtype, float] = {"float32": 0.2, "int8": 0.4}
# Where experts are chosen, rounding may choose another: only what is grossly wrong can be told from it.
_EXPERTS_FACTOR = 10
_HEAD_TOLERANCE = 0.2
# Rows of logits are kept for so many tokens, and fewer of a vocabulary beyond 128 Ki, which would take too much of a message.
_HEAD_TOKENS, _MOST_LOGITS = 4, 512 << 10
# A call's message takes 4 MiB; beyond this only the stage's ends go, and a wrong layer is not named.
_MOST_BYTES = 2 << 20


@dataclass(frozen=True)
class StageGolden:
    """Of one stage; fields as in device.proto's Golden."""

    token_ids: tuple[int, ...]
    scale: float
    hidden: bytes
    tolerance: float
    layers_graph: bytes
    head_hidden: bytes = b""
    logits: bytes = b""
    logits_scale: float = 0.0
    head_tolerance: float = 0.0


def record(manifest: Manifest, token_ids: Sequence[int], stream: Sequence[Doubles], store: ArtifactStore) -> GoldenRows | None:
    """What an import keeps of its calibration's `stream` [tokens, H] before layer 0 and after each, and of what the stored output head
    makes of its end; None when a value is not finite."""
    packed = pack(stream)
    if packed is None:
        return None
    golden = GoldenRows(tuple(token_ids), packed[0], store.put(packed[1]))
    ends = unpack(packed[1], len(token_ids), manifest.config.hidden_size)[-1][-_head_tokens(manifest) :]
    logits = pack([head_logits(manifest, ends.astype(np.float64) * packed[0], store.blob_folder)])
    return golden if logits is None else replace(golden, logits_scale=logits[0], logits=store.put(logits[1]))


def head_logits(manifest: Manifest, hidden: Doubles, blob_folder: Path) -> Doubles:
    """[n, V] of hidden rows [n, H] after the last layer, in float64 from the weights as they are stored."""
    config, variant = manifest.config, manifest.part(HEAD).variants[0]
    tensors = {tensor.name: tensor for tensor in variant.tensors}

    def read(name: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop). Not mapped: a page that was read would count as the import's."""
        tensor = tensors[name]
        row = tensor.size_bytes // tensor.shape[0]
        with (blob_folder / variant.blobs[tensor.blob].digest).open("rb") as file:
            file.seek(tensor.offset + start * row)
            return np.frombuffer(file.read((stop - start) * row), tensor.dtype).reshape(stop - start, *tensor.shape[1:])

    vectors = {name: read(name, 0, config.hidden_size) for name in tensors if name.startswith("norm")}
    _, normed = next(BlockRun(hidden, vectors).steps(architecture_of(config).head(config)))
    scheme = scheme_of(manifest.quantization, HEAD)
    logits: Doubles = np.empty((len(hidden), config.vocab_size))
    for start, stop in slabs(config.vocab_size, config.hidden_size):
        rows = read("weight", start, stop)
        if "scales" in tensors:
            rows = scheme.dequantize(Stored(rows, read("scales", start, stop)), config.hidden_size)
        logits[:, start:stop] = normed @ rows.astype(np.float64).T
    return logits


def pack(stream: Sequence[Doubles]) -> tuple[float, bytes] | None:
    """(scale, float16 bytes) of the residual stream [tokens, H] before layer 0 and after each; None when it is not finite.

    The scale is a power of two that brings the largest magnitude to float16's upper range: 11 bits are left to all that matters.
    """
    rows = np.stack(stream)
    largest = float(np.abs(rows).max())
    if not np.isfinite(largest) or not largest:
        return None
    scale = 2.0 ** (np.frexp(largest)[1] - 15)
    return float(scale), (rows / scale).astype("<f2").tobytes()


def unpack(data: bytes, tokens: int, hidden_size: int) -> npt.NDArray[np.float16]:
    """[n, tokens, H], to be multiplied by the scale."""
    return np.frombuffer(data, "<f2").reshape(-1, tokens, hidden_size)


def stage_golden(
    manifest: Manifest, parts: Sequence[str], first: int, stop: int, context: int, kv_dtype: KvDtype, blob_folder: Path
) -> StageGolden | None:
    """For the stage of layers [first, stop), of these parts. Raises Corrupt when the rows on disk were damaged."""
    golden, config = manifest.golden, manifest.config
    if golden is None or context < 2:
        return None
    tokens = min(len(golden.token_ids), even_down(context))
    if config.prefix_whole and tokens < len(golden.token_ids):
        return None  # each row of a prefix depends on all
    rows = unpack(_read(golden.blob, blob_folder), len(golden.token_ids), config.hidden_size)
    own = rows[first : stop + 1, :tokens]
    logits = _read(golden.logits, blob_folder) if golden.logits and HEAD in parts else b""
    head_tokens = len(logits) // (2 * config.vocab_size)
    whole = own.nbytes + len(logits) <= _MOST_BYTES
    body = [part for part in parts if part != HEAD]
    return StageGolden(
        token_ids=golden.token_ids[:tokens],
        scale=golden.scale,
        hidden=(own if whole else own[[0, -1]]).tobytes(),
        tolerance=_TOLERANCE[kv_dtype] * (_EXPERTS_FACTOR if config.experts else 1),
        layers_graph=build_stage_graph(manifest, body, kv_dtype=kv_dtype, layer_outputs=True) if whole else b"",
        head_hidden=rows[-1, len(golden.token_ids) - head_tokens :].tobytes(),
        logits=logits,
        logits_scale=golden.logits_scale,
        head_tolerance=_HEAD_TOLERANCE,
    )


def _head_tokens(manifest: Manifest) -> int:
    return max(1, min(_HEAD_TOKENS, _MOST_LOGITS // manifest.config.vocab_size))


def _read(blob: Blob, blob_folder: Path) -> bytes:
    try:
        data = (blob_folder / blob.digest).read_bytes()
    except FileNotFoundError:
        data = b""
    if digest_of(data) != blob.digest:
        raise Corrupt(
            "the model's golden rows are not what their digest says", advice="the file on disk is damaged: import the model again"
        )
    return data
