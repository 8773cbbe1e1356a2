"""torch's records of a tensor, as a pickle holds them (`torch/_utils.py`, `torch/serialization.py`): plain data, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# By torch's storage classes: the dtype's name in safetensors, and bytes of one value.
DTYPES: Final[Mapping[str, tuple[str, int]]] = {
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "DoubleStorage": ("F64", 8),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}
_MOST_DIMENSIONS, _LONGEST_DIMENSION = 8, 1 << 48


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names; never looked up."""

    module: str
    name: str


ORDERED_DICT = Name("collections", "OrderedDict")
REBUILD_TENSOR = Name("torch._utils", "_rebuild_tensor_v2")


@dataclass(frozen=True)
class Storage:
    """A run of `items` values of one dtype, kept beside the pickle under `key`."""

    key: str
    dtype: str
    item_bytes: int
    items: int


@dataclass(frozen=True)
class StoredTensor:
    """`shape` values in C order from item `offset` of `storage` on; within it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]


def is_allowed(name: Name) -> bool:
    return name in (ORDERED_DICT, REBUILD_TENSOR) or (name.module == "torch" and name.name in DTYPES)


def storage(record: object) -> Storage:
    """Of ('storage', class, key, location, items), in old files with a view (None) behind. Raises ValueError."""
    match record:
        case ("storage", Name(module="torch", name=kind), str(key), str(), int(items), *view) if items >= 0 and view in ([], [None]):
            return Storage(key, *DTYPES[kind], items)
    raise ValueError("refers to what is no storage")


def rebuilt(arguments: object) -> StoredTensor:
    """What _rebuild_tensor_v2 makes of (storage, offset, size, stride, requires_grad, hooks, …). Raises ValueError."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(size), tuple(stride), bool(), *_) if len(size) == len(stride) <= _MOST_DIMENSIONS:
            shape, strides = _numbers(size), _numbers(stride)
            if not _is_contiguous(shape, strides):
                raise ValueError("has a tensor that is not in C order")
            if offset < 0 or offset + math.prod(shape) > storage.items:
                raise ValueError(f"has a tensor of shape {list(shape)} that reaches beyond its storage")
            return StoredTensor(storage, offset, shape)
    raise ValueError("has a tensor that torch would not have written")


def _numbers(values: Sequence[object]) -> tuple[int, ...]:
    numbers = tuple(value for value in values if isinstance(value, int) and 0 <= value < _LONGEST_DIMENSION)
    if len(numbers) != len(values):
        raise ValueError("has a tensor whose shape is no shape")
    return numbers


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Where a dimension has one value or none, its stride does not matter."""
    step = 1
    for count, stride in zip(reversed(shape), reversed(strides), strict=True):
        if count > 1 and stride != step:
            return False
        step *= count
    return True
