"""A file that `torch.save` wrote of a state dict, read without torch: which tensors it has, and where.

Two layouts: a zip archive with `data.pkl` and one stored member for each storage (torch 1.6 and later), and before that a row of
pickles with all storages behind them (`torch/serialization.py`, `_save` and `_legacy_save`).
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from protos.errors import InvalidInput
from quantize.checkpoints.pickled import MOST_BYTES, Value, read_pickle, state_dict
from quantize.checkpoints.torch_records import StoredTensor

_LEGACY = (0x1950A86A20F9469CFC6C, 1001)  # magic number, version
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, …, lengths of name and extra field
_GET_AGAIN = "get the checkpoint again: its download was cut short or it was edited"


@dataclass(frozen=True)
class TorchFile:
    """Tensors by name; made by `open_torch_file`. `starts`: where in the file each storage's bytes begin."""

    tensors: Mapping[str, StoredTensor]
    starts: Mapping[str, int]
    file: BinaryIO

    def start(self, tensor: StoredTensor) -> int:
        """Where in the file its first byte is."""
        return self.starts[tensor.storage.key] + tensor.offset * tensor.storage.item_bytes


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Reads names, shapes and places, and checks that each place lies within the file.

    Raises InvalidInput naming the file; OSError when it cannot be opened.
    """
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
        file.seek(0)
        value, found = _read_zip(file, path.name) if is_zip else _read_legacy(file, path.name)
        tensors = state_dict(value, path.name)
        for name, tensor in tensors.items():
            storage = tensor.storage
            if storage.key not in found or found[storage.key][1] < storage.items * storage.item_bytes:
                raise InvalidInput(f"{path.name} has not all values of {name[:80]}", advice=_GET_AGAIN)
        yield TorchFile(tensors, {key: start for key, (start, _) in found.items()}, file)


# For each storage the file's offset of its first byte, and how many bytes there are.
_Places = dict[str, tuple[int, int]]


def _read_zip(file: BinaryIO, name: str) -> tuple[Value, _Places]:
    size = file.seek(0, io.SEEK_END)
    try:
        # A directory is read at once, however long it says it is.
        archive = zipfile.ZipFile(cast("IO[bytes]", _ShortReads(file, name)))
        pickles = [member for member in archive.infolist() if member.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InvalidInput(f"{name} is a zip archive, but not one of torch's", advice=_GET_AGAIN)
        folder = pickles[0].filename.removesuffix("data.pkl")
        places: _Places = {}
        for member in archive.infolist():
            if not member.filename.startswith(folder):
                continue
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise InvalidInput(f"{name}: {member.filename[:80]} is compressed, which torch never does", advice=_GET_AGAIN)
            start = _first_byte(file, member, name)
            if start + member.file_size > size:
                raise InvalidInput(f"{name}: {member.filename[:80]} reaches beyond the file", advice=_GET_AGAIN)
            places[member.filename.removeprefix(folder)] = (start, member.file_size)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error, OverflowError, ValueError) as error:
        raise InvalidInput(f"{name} is damaged or cut short: {' '.join(str(error).split())[:120]}", advice=_GET_AGAIN) from error
    if "byteorder" in places and _read(file, places["byteorder"], 16) != b"little":
        raise InvalidInput(f"{name} holds big-endian values", advice="save it on a little-endian machine")
    value = read_pickle(io.BytesIO(_read(file, places["data.pkl"], MOST_BYTES)), name)
    return value, {key.removeprefix("data/"): place for key, place in places.items() if key.startswith("data/")}


def _read_legacy(file: BinaryIO, name: str) -> tuple[Value, _Places]:
    if (read_pickle(file, name), read_pickle(file, name)) != _LEGACY:
        raise InvalidInput(f"{name} is no file of torch's", advice="give a checkpoint folder as its publisher made it")
    system = read_pickle(file, name)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InvalidInput(f"{name} holds big-endian values", advice="save it on a little-endian machine")
    value, keys = read_pickle(file, name), read_pickle(file, name)
    storages = {tensor.storage.key: tensor.storage for tensor in state_dict(value, name).values()}
    if not isinstance(keys, list) or len(keys) != len(storages):
        raise InvalidInput(f"{name} does not list its storages", advice=_GET_AGAIN)
    start, size = file.tell(), file.seek(0, io.SEEK_END)
    places: _Places = {}
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or key in places or start + 8 > size:
            raise InvalidInput(f"{name} does not list its storages", advice=_GET_AGAIN)
        if int.from_bytes(_read(file, (start, 8), 8), "little") != storage.items:
            raise InvalidInput(f"{name}: a storage has not the size that the pickle says", advice=_GET_AGAIN)
        size_bytes = storage.items * storage.item_bytes
        places[storage.key] = (start + 8, min(size_bytes, max(0, size - start - 8)))
        start += 8 + size_bytes
    return value, places


def _first_byte(file: BinaryIO, member: zipfile.ZipInfo, name: str) -> int:
    """Behind the member's own header, whose extra field aligns it."""
    header = _read(file, (member.header_offset, _LOCAL_HEADER.size), _LOCAL_HEADER.size)
    signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\x03\x04":
        raise InvalidInput(f"{name} is damaged: {member.filename[:80]} is not where it should be", advice=_GET_AGAIN)
    return int(member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes)


def _read(file: BinaryIO, place: tuple[int, int], most: int) -> bytes:
    file.seek(place[0])
    return file.read(min(place[1], most))


class _ShortReads:
    """A file of which nothing long is read at once."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(MOST_BYTES + 1 if count < 0 else min(count, MOST_BYTES + 1))
        if len(data) > MOST_BYTES:
            raise InvalidInput(f"{self._name}: the archive's directory is too long", advice=_GET_AGAIN)
        return data
