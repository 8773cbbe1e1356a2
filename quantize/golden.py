"""Golden rows: what an import recorded of a few tokens' way through the layers, for devices to check themselves by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protos.dtypes import KvDtype
from protos.errors import Corrupt
from protos.ids import digest_of
from protos.manifest import Blob, Manifest
from quantize.forward import Doubles
from quantize.graph import build_stage_graph

# In rms of what a stage's layers add, see device/engine/golden.py. On the default model int8 activations are off by 0.05 at most whatever
# the cut, with an int8 cache by 0.10. A scale with a flipped exponent bit is off by 0.3 to 1e37, 4 KiB of zeros in "o" by 1.5 in its layer.
_TOLERANCE: dict[KvDtype, float] = {"float32": 0.2, "int8": 0.4}
# Where experts are chosen, rounding may choose another: only what is grossly wrong can be told from it.
_EXPERTS_FACTOR = 10
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


def stage_golden(
    manifest: Manifest, parts: Sequence[str], first: int, stop: int, context: int, kv_dtype: KvDtype, blob_folder: Path
) -> StageGolden | None:
    """For the stage of layers [first, stop), of these parts (without the head). Raises Corrupt when the rows on disk were damaged."""
    golden = manifest.golden
    if golden is None or context < 2:
        return None
    tokens = min(len(golden.token_ids), context - context % 2)
    rows = np.frombuffer(_read(golden.blob, blob_folder), "<f2").reshape(-1, len(golden.token_ids), manifest.config.hidden_size)
    own = rows[first : stop + 1, :tokens]
    whole = own.nbytes <= _MOST_BYTES
    return StageGolden(
        token_ids=golden.token_ids[:tokens],
        scale=golden.scale,
        hidden=(own if whole else own[[0, -1]]).tobytes(),
        tolerance=_TOLERANCE[kv_dtype] * (_EXPERTS_FACTOR if manifest.config.experts else 1),
        layers_graph=build_stage_graph(manifest, parts, kv_dtype=kv_dtype, layer_outputs=True) if whole else b"",
    )


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
