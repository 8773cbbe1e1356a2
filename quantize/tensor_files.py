"""The safetensors files of a checkpoint folder, one or sharded, validated by their headers before a value is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from protos.errors import InvalidInput
from quantize.blocks import Floats
from quantize.sources import SourceTensor

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = ("F32", "F16", "BF16")
_GET_AGAIN = "get the checkpoint again: its download was cut short or it was edited"


class TensorFiles:
    """Tensors of a folder by name; made by `open_tensor_files`."""

    def __init__(self, files: dict[str, Any], file_of: dict[str, str]) -> None:
        self._files = files
        self._file_of = file_of

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._file_of)

    def check(self, expected: Iterable[SourceTensor]) -> None:
        """Raises InvalidInput for the first tensor that is missing, of another shape, or of a dtype that we do not read."""
        for tensor in expected:
            if tensor.name not in self._file_of:
                raise InvalidInput(
                    f"the checkpoint has no tensor {tensor.name}", advice="config.json and the safetensors files must belong together"
                )
            file = self._file_of[tensor.name]
            found = self._files[file].get_slice(tensor.name)
            shape, dtype = tuple(found.get_shape()), found.get_dtype()
            if shape != tensor.shape:
                raise InvalidInput(
                    f"{file}: tensor {tensor.name} has shape {list(shape)}, config.json asks for {list(tensor.shape)}",
                    advice="config.json and the safetensors files must belong together",
                )
            if dtype not in _DTYPES:
                raise InvalidInput(
                    f"{file}: tensor {tensor.name} is stored as {dtype}", advice=f"checkpoints of {', '.join(_DTYPES)} can be imported"
                )

    def read(self, name: str, start: int, stop: int) -> Floats:
        """Rows [start, stop) as float32."""
        rows = self._files[self._file_of[name]].get_slice(name)[start:stop]
        return np.ascontiguousarray(rows, dtype=np.float32)


@contextmanager
def open_tensor_files(folder: Path) -> Iterator[TensorFiles]:
    """Opens model.safetensors, or the shards that model.safetensors.index.json lists. Raises InvalidInput naming the file at fault."""
    shards = _shards(folder)
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        file_of: dict[str, str] = {}
        for file, listed in shards.items():
            try:
                files[file] = stack.enter_context(safe_open(folder / file, framework="numpy"))
            except FileNotFoundError:
                raise InvalidInput(f"{file} is missing", advice=_GET_AGAIN) from None
            except (SafetensorError, OSError) as error:
                raise InvalidInput(f"{file} is damaged or cut short: {' '.join(str(error).split())[:160]}", advice=_GET_AGAIN) from error
            present = set(files[file].keys())
            if absent := sorted((listed or present) - present):
                raise InvalidInput(f"{file} has no tensor {absent[0]}, though {_INDEX} says so", advice=_GET_AGAIN)
            file_of |= dict.fromkeys(listed or present, file)
        yield TensorFiles(files, file_of)


def _shards(folder: Path) -> dict[str, set[str] | None]:
    """File name -> the tensors that the index promises in it (None: whatever the only file holds)."""
    if (folder / _SINGLE).exists():
        return {_SINGLE: None}
    try:
        index = json.loads((folder / _INDEX).read_bytes())
    except FileNotFoundError:
        raise InvalidInput(f"neither {_SINGLE} nor {_INDEX} is there", advice="give a checkpoint folder with safetensors weights") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{_INDEX} is not JSON", advice=_GET_AGAIN) from error
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise InvalidInput(f"{_INDEX} has no weight_map", advice=_GET_AGAIN)
    shards: dict[str, set[str] | None] = {}
    for tensor, file in places.items():
        # A name from a file must not lead out of the folder.
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file:
            raise InvalidInput(f"{_INDEX} names {str(file)[:80]!r}, which is no safetensors file of this folder", advice=_GET_AGAIN)
        names = shards.setdefault(file, set())
        assert names is not None
        names.add(tensor)
    return shards
