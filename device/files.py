"""Small private files of the agent, replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from protos.errors import InvalidInput


def write_whole(path: Path, data: bytes) -> None:
    """Replace the file by one of mode 0600: readers see the old bytes or the new ones, also after a power cut. Raises InvalidInput."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}", advice="choose another folder with --home") from error
