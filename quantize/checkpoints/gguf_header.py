"""Whether a GGUF file's header can be believed, found out before anything is built from it.

Format: ggml-org/ggml, docs/gguf.md. The `gguf` package trusts what it reads: a count of 2^63 keeps it busy for ever.
"""

from __future__ import annotations

import math
import os
import struct
from typing import IO, NoReturn

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from protos.errors import InvalidInput

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
# Real files have tens of keys, some hundred tensors, and three arrays of 151,552 elements; the gguf
# package makes several objects of each string.
_MOST_KEYS, _MOST_TENSORS, _MOST_ELEMENTS, _MOST_DIMENSIONS = 4096, 1 << 16, 1 << 21, 4
_LONGEST_STRING_BYTES, _LARGEST_TENSOR_ELEMENTS = 1 << 24, 1 << 40
_LARGEST_HEADER_BYTES = 1 << 28
_SIZES = {
    GGUFValueType.UINT8: 1,
    GGUFValueType.INT8: 1,
    GGUFValueType.UINT16: 2,
    GGUFValueType.INT16: 2,
    GGUFValueType.UINT32: 4,
    GGUFValueType.INT32: 4,
    GGUFValueType.FLOAT32: 4,
    GGUFValueType.BOOL: 1,
    GGUFValueType.UINT64: 8,
    GGUFValueType.INT64: 8,
    GGUFValueType.FLOAT64: 8,
}


def check_header(file: IO[bytes], name: str) -> None:
    """Walks over keys and tensors without keeping them. Raises InvalidInput, in one line that names the file."""
    size_bytes = os.fstat(file.fileno()).st_size
    file.seek(0)
    walk = _Walk(file, name, size_bytes)
    if walk.take(4) != _MAGIC:
        walk.refuse("is no GGUF file")
    if (version := walk.u32()) not in _VERSIONS:
        walk.refuse(f"is GGUF version {version}, not {' or '.join(map(str, _VERSIONS))}")
    tensors, keys = walk.count(_MOST_TENSORS, "tensors"), walk.count(_MOST_KEYS, "keys")
    alignment = 32
    for _ in range(keys):
        key, kind = walk.string(), walk.u32()
        if key == b"general.alignment" and kind == GGUFValueType.UINT32:
            alignment = walk.u32()
        else:
            walk.value(kind)
    if alignment == 0 or alignment & (alignment - 1) or alignment > 1 << 20:
        walk.refuse(f"aligns its tensors to {alignment}")
    end = max((walk.tensor(alignment) for _ in range(tensors)), default=0)
    end += -(-walk.offset // alignment) * alignment
    if tensors and end > size_bytes:
        walk.refuse(f"ends {end - size_bytes} bytes before its last tensor does")


class _Walk:
    def __init__(self, file: IO[bytes], name: str, size_bytes: int) -> None:
        self._file = file
        self._name = name
        self._end = min(size_bytes, _LARGEST_HEADER_BYTES)
        self._elements = 0
        self.offset = 0

    def refuse(self, what: str) -> NoReturn:
        raise InvalidInput(f"{self._name} {what}", advice="get the file again: its download was cut short or it was edited")

    def skip(self, count_bytes: int) -> None:
        self.offset += count_bytes
        if self.offset > self._end:
            self.refuse("ends within its header")
        self._file.seek(self.offset)

    def take(self, count_bytes: int) -> bytes:
        if self.offset + count_bytes > self._end:
            self.refuse("ends within its header")
        self.offset += count_bytes
        return self._file.read(count_bytes)

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def count(self, most: int, what: str) -> int:
        if (count := self.u64()) > most:
            self.refuse(f"claims to have {count} {what}")
        return count

    def string(self) -> bytes:
        return self.take(self.count(_LONGEST_STRING_BYTES, "bytes in a string"))

    def value(self, kind: int) -> None:
        if kind == GGUFValueType.STRING:
            self.skip(self.count(_LONGEST_STRING_BYTES, "bytes in a string"))
        elif kind == GGUFValueType.ARRAY:
            inner = self.u32()
            length = self.count(_MOST_ELEMENTS - self._elements, "elements in an array")
            self._elements += length
            if inner == GGUFValueType.STRING:
                for _ in range(length):
                    self.value(inner)
            else:
                self.skip(self._size_of(inner) * length)
        else:
            self.skip(self._size_of(kind))

    def _size_of(self, kind: int) -> int:
        if kind not in _SIZES:
            self.refuse(f"has a value of unknown type {kind}")
        return _SIZES[GGUFValueType(kind)]

    def tensor(self, alignment: int) -> int:
        """Where it ends, from the first tensor's begin."""
        name, dimensions = self.string(), self.u32()
        where = f"tensor {name[:64].decode(errors='replace')!r}"
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            self.refuse(f"has a {where} of {dimensions} dimensions")
        shape = [self.u64() for _ in range(dimensions)]
        kind, offset = self.u32(), self.u64()
        if kind not in {known.value for known in GGML_QUANT_SIZES}:
            self.refuse(f"has a {where} of unknown type {kind}")
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        elements = math.prod(shape)
        if not 0 < elements <= _LARGEST_TENSOR_ELEMENTS or shape[0] % block:
            self.refuse(f"has a {where} of shape {shape[::-1]}")
        if offset % alignment:
            self.refuse(f"has a {where} at the odd offset {offset}")
        return offset + elements // block * block_bytes
