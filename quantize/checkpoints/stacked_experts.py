"""Experts that a file holds as one tensor of three dimensions, as the matrices that they are one by one elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator

from protos.errors import InvalidInput
from quantize.checkpoints.tensor_files import TensorFiles
from quantize.checkpoints.tensors import RowsOf, Tensor

# transformers' own layout since version 5: [experts, out, in], gate and up in one or apart.
_STACKED = re.compile(r"(.*\.experts)\.(gate_up_proj|gate_proj|up_proj|down_proj)(?:\.weight)?")


_MOST_EXPERTS = 4096  # as many as config.json may say
_GET_AGAIN = "get the checkpoint again"


def unstack_experts(files: TensorFiles) -> TensorFiles:
    """With "….experts.3.up_proj.weight" and the like instead of "….experts.gate_up_proj". Raises InvalidInput."""
    made: dict[str, Tensor] = {}
    gone = []
    for name in sorted(files.names):
        found = _STACKED.fullmatch(name)
        if found and len(files.tensor(name).shape) == 3:
            made |= _experts(found[1], found[2], name, files.tensor(name))
            gone.append(name)
    return files.replaced(gone, made)


def _experts(prefix: str, what: str, name: str, stacked: Tensor) -> Iterator[tuple[str, Tensor]]:
    count, rows, _ = stacked.shape
    parts = ("gate_proj", "up_proj") if what == "gate_up_proj" else (what,)
    if not 0 < count <= _MOST_EXPERTS or 0 in stacked.shape:
        raise InvalidInput(
            f"{stacked.file}: tensor {name} is of {list(stacked.shape)}, which no experts are", advice="get the checkpoint again"
        )
    if rows % len(parts):
        raise InvalidInput(f"{stacked.file}: tensor {name} has {rows} rows for gate and up", advice=_GET_AGAIN)
    size, matrix = rows // len(parts), stacked.flattened()
    for expert in range(count):
        for number, part in enumerate(parts):
            yield f"{prefix}.{expert}.{part}.weight", RowsOf(matrix, expert * rows + number * size, size)
