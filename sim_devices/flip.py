"""Changing one bit of a stored blob, as a worn-out flash cell does."""

from __future__ import annotations

import os
import random
from pathlib import Path

from protos.errors import NotFound


def flip_bit(folder: Path, begins: str, chance: random.Random) -> str:
    """Of one of the blobs in `folder` whose digest begins so; says which. The file keeps its length and its times.

    Raises NotFound when there is none.
    """
    blobs = sorted(path for path in folder.iterdir() if path.name.startswith(begins) and path.is_file()) if folder.is_dir() else []
    if not blobs:
        raise NotFound(f"no blob {begins or 'at all'} is stored there", advice="deploy a model first")
    path = chance.choice(blobs)
    before = path.stat()
    offset, bit = chance.randrange(before.st_size), chance.randrange(8)
    with path.open("r+b", buffering=0) as file:
        value = os.pread(file.fileno(), 1, offset)[0]
        os.pwrite(file.fileno(), bytes([value ^ 1 << bit]), offset)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return f"blob {path.name[:12]}, byte {offset}, bit {bit}"
