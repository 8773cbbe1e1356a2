"""The weight files of a checkpoint folder, safetensors or torch's, one or sharded, validated by their headers before a value is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from safetensors import SafetensorError, safe_open

from protos.errors import InvalidInput
from quantize.blocks import Floats
from quantize.checkpoints.folder_files import has_file, read_file
from quantize.checkpoints.tensors import FLOAT_DTYPES, StoredTensor, Tensor
from quantize.checkpoints.torch_files import open_torch_file
from quantize.sources import SourceTensor

Layouts: TypeAlias = tuple[tuple[str, str], tuple[str, str]]
# In this order: what needs no unpickling first.
_LAYOUTS: Layouts = (("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json"))
_GET_AGAIN = "get the checkpoint again: its download was cut short or it was edited"


class TensorFiles:
    """Tensors of a folder by name; made by `open_tensor_files`."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def tensor(self, name: str) -> Tensor:
        """Raises KeyError."""
        return self._tensors[name]

    def stored(self) -> Iterator[tuple[str, StoredTensor]]:
        """Those that lie in a file as they are, by name."""
        yield from ((name, tensor) for name, tensor in sorted(self._tensors.items()) if isinstance(tensor, StoredTensor))

    def replaced(self, gone: Iterable[str], made: Mapping[str, Tensor]) -> TensorFiles:
        """Without some, and with others that are made of them."""
        left_out = frozenset(gone)
        return TensorFiles({**{name: tensor for name, tensor in self._tensors.items() if name not in left_out}, **made})

    def remove_prefix(self, prefix: str) -> None:
        """From here on the tensors are called what follows it, if all begin with it."""
        if prefix and all(name.startswith(prefix) for name in self._tensors):
            self._tensors = {name.removeprefix(prefix): tensor for name, tensor in self._tensors.items()}

    def check(self, expected: Iterable[SourceTensor]) -> None:
        """Raises InvalidInput for the first tensor that is missing, of another shape, or of a dtype that we do not read."""
        for tensor in expected:
            found = self._tensors.get(tensor.name)
            if found is None:
                raise InvalidInput(
                    f"the checkpoint has no tensor {tensor.name}", advice="config.json and the weight files must belong together"
                )
            if found.shape != tensor.stored_shape:
                raise InvalidInput(
                    f"{found.file}: tensor {tensor.name} has shape {list(found.shape)}, config.json asks for {list(tensor.stored_shape)}",
                    advice="config.json and the weight files must belong together",
                )
            if isinstance(found, StoredTensor) and found.dtype not in FLOAT_DTYPES:
                raise InvalidInput(
                    f"{found.file}: tensor {tensor.name} is stored as {found.dtype}",
                    advice=f"checkpoints of {', '.join(FLOAT_DTYPES)} can be imported",
                )

    def read(self, name: str, start: int, stop: int) -> Floats:
        """Rows [start, stop) as float32."""
        return self._tensors[name].read(start, stop)


@contextmanager
def open_tensor_files(folder: Path, layouts: Layouts = _LAYOUTS) -> Iterator[TensorFiles]:
    """Opens model.safetensors or pytorch_model.bin, or the shards that an index beside them lists; files of other names by `layouts`,
    pairs of a file and of the index of several.

    Raises InvalidInput naming the file at fault.
    """
    index, shards = _shards(folder, layouts)
    with ExitStack() as stack:
        found: dict[str, StoredTensor] = {}
        for file, listed in shards.items():
            if (folder / file).exists() and not has_file(folder, file):  # a pipe would be waited for
                raise InvalidInput(f"{file} is damaged or cut short: it is no file", advice=_GET_AGAIN)
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


def _open_safetensors(path: Path, stack: ExitStack) -> dict[str, StoredTensor]:
    # The library believes a header only when its tensors fill the file without gaps or overlaps.
    with safe_open(path, framework="numpy"):
        return _header(stack.enter_context(path.open("rb")), path.name)


def _open_torch(path: Path, stack: ExitStack) -> dict[str, StoredTensor]:
    file = stack.enter_context(open_torch_file(path))
    return {
        name: StoredTensor(path.name, file.file.fileno(), tensor.storage.dtype, tensor.shape, file.start(tensor))
        for name, tensor in file.tensors.items()
    }


def _header(opened: BinaryIO, file: str) -> dict[str, StoredTensor]:
    """Of a file that the library has accepted. Format: 8 bytes for the header's size, the header as JSON, then the tensors."""
    size_bytes = int.from_bytes(opened.read(8), "little")
    header = json.loads(opened.read(size_bytes))
    return {
        name: StoredTensor(file, opened.fileno(), one["dtype"], tuple(one["shape"]), 8 + size_bytes + one["data_offsets"][0])
        for name, one in header.items()
        if name != "__metadata__"
    }


def _shards(folder: Path, layouts: Layouts) -> tuple[str, dict[str, set[str] | None]]:
    """The index and, for each file, the tensors that it promises there (None: whatever the only file holds)."""
    for single, index in layouts:
        if (folder / single).exists():
            return index, {single: None}
        if (folder / index).exists():
            return index, _indexed(folder, index, Path(single).suffix)
    (single, index), (other, _) = layouts
    raise InvalidInput(f"neither {single} nor {index} is there, nor {other}", advice="give a checkpoint folder with safetensors weights")


def _indexed(folder: Path, name: str, suffix: str) -> dict[str, set[str] | None]:
    try:
        index = json.loads(read_file(folder, name))
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
