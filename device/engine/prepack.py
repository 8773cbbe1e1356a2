"""`python -m device.engine.prepack FOLDER BLOBS`: save graphs with prepacked weights, in a process that gives way to all others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from device.engine.session import save_prepacked
from protos.errors import FleetError

INDEX = "index.json"
GRAPH_SUFFIX, SAVED_SUFFIX = ".graph", ".onnx"

_SEGMENT_BYTES = 64 << 20
_READ_BYTES = 1 << 20


def main() -> None:
    folder, blob_folder = map(Path, sys.argv[1:])
    os.nice(19)
    with contextlib.suppress(OSError):  # Linux only: should memory run out, this process goes and not the agent
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        save(folder, blob_folder)
    except (FleetError, OSError) as error:
        sys.exit(str(error))


def save(folder: Path, blob_folder: Path) -> None:
    """Turn each NAME.graph in `folder` into NAME.onnx and NAME.weights. Raises InvalidInput, OSError."""
    for graph in sorted(folder.glob(f"*{GRAPH_SUFFIX}")):
        save_prepacked(graph.read_bytes(), blob_folder, 1, graph.with_suffix(SAVED_SUFFIX))
        graph.unlink()
    (folder / INDEX).write_text("\n".join(index_lines(folder, 1)))


def index_lines(folder: Path, threads: int) -> list[str]:
    """SHA-256 of each segment of each file. Segments, because one core hashes slower than a disk reads."""
    places = [
        (path, offset)
        for path in sorted(folder.iterdir())
        if path.name != INDEX
        for offset in range(0, max(1, path.stat().st_size), _SEGMENT_BYTES)
    ]
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
        digests = pool.map(_segment_sha256, places)
        return [f"{digest} {offset} {path.name}" for (path, offset), digest in zip(places, digests, strict=True)]


def _segment_sha256(place: tuple[Path, int]) -> str:
    path, offset = place
    value, buffer, left = hashlib.sha256(), memoryview(bytearray(_READ_BYTES)), _SEGMENT_BYTES
    # Read, not mapped: mapped pages would count as the agent's memory.
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while left and (count := file.readinto(buffer[: min(left, _READ_BYTES)])):
            value.update(buffer[:count])
            left -= count
    return value.hexdigest()


if __name__ == "__main__":
    main()
