"""Small files of a checkpoint folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protos.errors import InvalidInput
from protos.sizes import bytes_text
from quantize.checkpoints.huggingface_config import parse_json_object

# GLM-4's tokenizer.json is 20 MB.
_LARGEST_TEXT_BYTES = 128 << 20


def has_file(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def read_file(folder: Path, name: str) -> bytes:
    """Raises InvalidInput when it is missing, cannot be read, or is far too large."""
    try:
        with (folder / name).open("rb") as file:
            # Told before it is read: a read of at most so much sets that much aside.
            if os.fstat(file.fileno()).st_size > _LARGEST_TEXT_BYTES:
                raise InvalidInput(f"{name} is larger than {bytes_text(_LARGEST_TEXT_BYTES)}", advice="get the checkpoint again")
            return file.read()
    except FileNotFoundError:
        raise InvalidInput(f"{name} is missing in {folder}", advice="give a whole Hugging Face checkpoint folder") from None
    except OSError as error:
        raise InvalidInput(f"cannot read {name} in {folder}: {error.strerror}", advice="check the folder") from error


def read_object(folder: Path, name: str) -> Mapping[str, Any]:
    """A JSON object, {} where there is no such file. Raises InvalidInput."""
    return parse_json_object(read_file(folder, name), name) if has_file(folder, name) else {}
