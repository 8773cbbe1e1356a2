"""Another framework's logits, read from an .npz file."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protos.errors import InvalidInput
from quantize.blocks import Floats
from quantize.quality.windows import TokenIds

_ADVICE = "save numpy arrays ids_0 … ids_n [S] (integers) and logits_0 … logits_n [S, vocabulary] (floats) with numpy.savez"


@dataclass(frozen=True)
class ReferenceSequence:
    """`logits` float32 [S, V] of `token_ids` int64 [S]."""

    token_ids: TokenIds
    logits: Floats


def read_reference(path: Path, vocab_size: int, max_positions: int) -> list[ReferenceSequence]:
    """Sequences 0 … n of the file; nothing in it is unpickled. Raises InvalidInput with what is wrong."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise _bad(path, "is a single array, not an .npz file")
        with archive as arrays:
            names = set(arrays.files)
            count = sum(name.startswith("ids_") for name in names)
            wanted = {f"{what}_{number}" for what in ("ids", "logits") for number in range(count)}
            if not count or names != wanted:
                different = ", ".join(sorted(names ^ wanted)[:4]) or "ids_0, logits_0"
                raise _bad(path, f"has other arrays than ids_0 … and logits_0 …: {different[:120]}")
            return [
                _sequence(path, number, arrays[f"ids_{number}"], arrays[f"logits_{number}"], vocab_size, max_positions)
                for number in range(count)
            ]
    except FileNotFoundError:
        raise InvalidInput(f"{path} is missing", advice=_ADVICE) from None
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _bad(path, f"cannot be read: {' '.join(str(error).split())[:100]}") from error


def _sequence(path: Path, number: int, ids: np.ndarray, logits: np.ndarray, vocab_size: int, max_positions: int) -> ReferenceSequence:
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or not len(ids):
        raise _bad(path, f"ids_{number} is {ids.dtype} {list(ids.shape)}, not integers [S]")
    if logits.shape != (len(ids), vocab_size) or not np.issubdtype(logits.dtype, np.floating):
        raise _bad(path, f"logits_{number} is {logits.dtype} {list(logits.shape)}, not floats [{len(ids)}, {vocab_size}]")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise _bad(path, f"ids_{number} holds a token beyond the vocabulary of {vocab_size}")
    if len(ids) > max_positions:
        raise _bad(path, f"ids_{number} has {len(ids)} tokens, the model takes {max_positions}")
    if not np.isfinite(logits).all():
        raise _bad(path, f"logits_{number} holds a value that is not finite")
    return ReferenceSequence(ids.astype(np.int64), logits.astype(np.float32))


def _bad(path: Path, what: str) -> InvalidInput:
    return InvalidInput(f"{path.name} {what}", advice=_ADVICE)
