"""The weight files of a checkpoint folder, safetensors or torch's, one or sharded, validated by their headers before a value is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from protos.errors import InvalidInput
from quantize.blocks import Floats
from quantize.checkpoints.torch_files import open_torch_file
from quantize.files import read_at
from quantize.sources import SourceTensor

# In this order: what needs no unpickling first.
_LAYOUTS = (("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json"))
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_GET_AGAIN = "get the checkpoint again: its download was cut short or it was edited"


@dataclass(frozen=True)
class _Stored:
    """A tensor of an open file: `offset` is from the file's beginning."""

    file: str
    descriptor: int
    dtype: str
    shape: tuple[int, ...]
    offset: int


class TensorFiles:
    """Tensors of a folder by name; made by `open_tensor_files`."""

    def __init__(self, stored: Mapping[str, _Stored]) -> None:
        self._stored = stored

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._stored)

    def remove_prefix(self, prefix: str) -> None:
        """From here on the tensors are called what follows it, if all begin with it."""
        if prefix and all(name.startswith(prefix) for name in self._stored):
            self._stored = {name.removeprefix(prefix): stored for name, stored in self._stored.items()}

    def check(self, expected: Iterable[SourceTensor]) -> None:
        """Raises InvalidInput for the first tensor that is missing, of another shape, or of a dtype that we do not read."""
        for tensor in expected:
            found = self._stored.get(tensor.name)
            if found is None:
                raise InvalidInput(
                    f"the checkpoint has no tensor {tensor.name}", advice="config.json and the weight files must belong together"
                )
            if found.shape != tensor.stored_shape:
                raise InvalidInput(
                    f"{found.file}: tensor {tensor.name} has shape {list(found.shape)}, config.json asks for {list(tensor.stored_shape)}",
                    advice="config.json and the weight files must belong together",
                )
            if found.dtype not in _DTYPES:
                raise InvalidInput(
                    f"{found.file}: tensor {tensor.name} is stored as {found.dtype}",
                    advice=f"checkpoints of {', '.join(_DTYPES)} can be imported",
                )

    def read(self, name: str, start: int, stop: int) -> Floats:
        """Rows [start, stop) as float32, those of the last axis."""
        stored = self._stored[name]
        dtype = _DTYPES[stored.dtype]
        row = stored.shape[-1:] if len(stored.shape) > 1 else ()
        row_bytes = math.prod(row) * dtype.itemsize
        data = read_at(stored.descriptor, (stop - start) * row_bytes, stored.offset + start * row_bytes, stored.file)
        values = data.view(dtype).reshape(stop - start, *row)
        if stored.dtype == "BF16":  # the upper half of a float32
            widened: Floats = (values.astype(np.uint32) << 16).view(np.float32)
            return widened
        return values.astype(np.float32, copy=False)


@contextmanager
def open_tensor_files(folder: Path) -> Iterator[TensorFiles]:
    """Opens model.safetensors or pytorch_model.bin, or the shards that an index beside them lists.

    Raises InvalidInput naming the file at fault.
    """
    index, shards = _shards(folder)
    with ExitStack() as stack:
        found: dict[str, _Stored] = {}
        for file, listed in shards.items():
            try:
                stored = (_open_torch if file.endswith(".bin") else _open_safetensors)(folder / file, stack)
            except FileNotFoundError:
                raise InvalidInput(f"{file} is missing", advice=_GET_AGAIN) from None
            except (SafetensorError, OSError) as error:
                raise InvalidInput(f"{file} is damaged or cut short: {' '.join(str(error).split())[:160]}", advice=_GET_AGAIN) from error
            if absent := sorted((listed or stored.keys()) - stored.keys()):
                raise InvalidInput(f"{file} has no tensor {absent[0]}, though {index} says so", advice=_GET_AGAIN)
            if unlisted := sorted(stored.keys() - (listed or stored.keys())):
                raise InvalidInput(f"{file} has a tensor {unlisted[0]} that {index} does not place there", advice=_GET_AGAIN)
            found |= stored
        yield TensorFiles(found)


def _open_safetensors(path: Path, stack: ExitStack) -> dict[str, _Stored]:
    # The library believes a header only when its tensors fill the file without gaps or overlaps.
    with safe_open(path, framework="numpy"):
        return _header(stack.enter_context(path.open("rb")), path.name)


def _open_torch(path: Path, stack: ExitStack) -> dict[str, _Stored]:
    file = stack.enter_context(open_torch_file(path))
    return {
        name: _Stored(path.name, file.file.fileno(), tensor.storage.dtype, tensor.shape, file.start(tensor))
        for name, tensor in file.tensors.items()
    }


def _header(opened: BinaryIO, file: str) -> dict[str, _Stored]:
    """Of a file that the library has accepted. Format: 8 bytes for the header's size, the header as JSON, then the tensors."""
    size_bytes = int.from_bytes(opened.read(8), "little")
    header = json.loads(opened.read(size_bytes))
    return {
        name: _Stored(file, opened.fileno(), one["dtype"], tuple(one["shape"]), 8 + size_bytes + one["data_offsets"][0])
        for name, one in header.items()
        if name != "__metadata__"
    }


def _shards(folder: Path) -> tuple[str, dict[str, set[str] | None]]:
    """The index and, for each file, the tensors that it promises there (None: whatever the only file holds)."""
    for single, index in _LAYOUTS:
        if (folder / single).exists():
            return index, {single: None}
        if (folder / index).exists():
            return index, _indexed(folder, index, Path(single).suffix)
    (single, index), (other, _) = _LAYOUTS
    raise InvalidInput(f"neither {single} nor {index} is there, nor {other}", advice="give a checkpoint folder with safetensors weights")


def _indexed(folder: Path, name: str, suffix: str) -> dict[str, set[str] | None]:
    try:
        index = json.loads((folder / name).read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name} is not JSON", advice=_GET_AGAIN) from error
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise InvalidInput(f"{name} has no weight_map", advice=_GET_AGAIN)
    shards: dict[str, set[str] | None] = {}
    for tensor, file in places.items():
        # A name from a file must not lead out of the folder.
        if not isinstance(file, str) or not file.endswith(suffix) or Path(file).name != file:
            raise InvalidInput(f"{name} names {str(file)[:80]!r}, which is no {suffix} file of this folder", advice=_GET_AGAIN)
        names = shards.setdefault(file, set())
        assert names is not None
        names.add(tensor)
    return shards
