"""Files as torch.save writes them, made without torch: the same opcodes in the same order."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_CLASSES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage"}


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    key: str, shape: tuple[int, ...], *, kind: str = "FloatStorage", items: int, offset: int = 0, strides: tuple[int, ...] | None = None
) -> bytes:
    """The opcodes of one tensor."""
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape)))
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(items) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + hooks + b"tR"


def state_pickle(entries: Mapping[str, bytes]) -> bytes:
    """An OrderedDict of these, with torch's `_metadata` set on it."""
    items = b"".join(text(name) + value for name, value in entries.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u}" + text("_metadata") + b"}sb."


def write_zip(path: Path, entries: bytes, storages: Mapping[str, bytes], *, byteorder: bytes = b"little", compressed: bool = False) -> Path:
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", entries)
        archive.writestr("archive/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", b"3\n")
    return path


def write_torch_file(path: Path, tensors: Arrays) -> Path:
    """As torch 1.6 and later write a state dict."""
    entries, storages = _entries(tensors)
    return write_zip(path, state_pickle(entries), storages)


def write_legacy_torch_file(path: Path, tensors: Arrays) -> Path:
    """As torch wrote before 1.6."""
    entries, storages = _entries(tensors)
    data = io.BytesIO()
    data.write(MAGIC + pickle.dumps(1001, 2))
    data.write(pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}, 2))
    data.write(state_pickle(entries) + pickle.dumps(list(storages), 2))
    for key, array in zip(storages, tensors.values(), strict=True):
        data.write(struct.pack("<q", array.size) + storages[key])
    path.write_bytes(data.getvalue())
    return path


def _entries(tensors: Arrays) -> tuple[dict[str, bytes], dict[str, bytes]]:
    storages = {str(index): array.tobytes() for index, array in enumerate(tensors.values())}
    entries = {
        name: tensor(str(index), array.shape, kind=_CLASSES[array.dtype.name], items=array.size)
        for index, (name, array) in enumerate(tensors.items())
    }
    return entries, storages
