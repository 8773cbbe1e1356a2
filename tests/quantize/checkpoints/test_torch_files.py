"""Files of torch.save, both layouts: values as written, a few rows at a time; what is damaged is refused."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos.errors import InvalidInput
from quantize.checkpoints.tensor_files import open_tensor_files
from quantize.checkpoints.torch_files import open_torch_file
from quantize.sources import SourceTensor
from tests.support.torch_files import Arrays, state_pickle, tensor, write_legacy_torch_file, write_torch_file, write_zip

Writer = Callable[[Path, Arrays], Path]
WRITERS: dict[str, Writer] = {"zip": write_torch_file, "legacy": write_legacy_torch_file}


def arrays() -> Arrays:
    random = np.random.default_rng(1)
    values = random.standard_normal((7, 5)).astype(np.float32)
    return {"f32": values, "f16": values.astype(np.float16), "bf16": values.astype(ml_dtypes.bfloat16), "count": np.arange(3)}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_rows_are_those_that_were_written(tmp_path: Path, writer: Writer) -> None:
    expected = arrays()
    path = writer(tmp_path / "pytorch_model.bin", expected)
    with open_torch_file(path) as opened:
        assert list(opened.tensors) == list(expected)
        assert [opened.tensors[name].storage.dtype for name in expected] == ["F32", "F16", "BF16", "I64"]
    with open_tensor_files(tmp_path) as file:
        for name, (start, stop) in itertools.product(["f32", "f16", "bf16"], [(0, 7), (2, 5), (6, 7), (3, 3)]):
            rows = file.read(name, start, stop)
            assert rows.dtype == np.float32
            assert np.array_equal(rows, expected[name][start:stop].astype(np.float32))


def test_views_of_one_storage(tmp_path: Path) -> None:
    data = np.arange(12, dtype=np.float32)
    entries = {"a": tensor("0", (2, 3), items=12), "b": tensor("0", (3, 2), items=12, offset=6)}
    write_zip(tmp_path / "pytorch_model.bin", state_pickle(entries), {"0": data.tobytes()})
    with open_tensor_files(tmp_path) as file:
        assert np.array_equal(file.read("a", 0, 2), data[:6].reshape(2, 3))
        assert np.array_equal(file.read("b", 1, 3), data[8:].reshape(2, 2))


def _refused(path: Path) -> str:
    with pytest.raises(InvalidInput) as raised, open_torch_file(path):
        pass
    assert "\n" not in raised.value.detail
    return raised.value.detail


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    good, path = state_pickle({"a": tensor("0", (4,), items=4)}), tmp_path / "x.bin"
    data = {"0": bytes(16)}
    assert "not all values of a" in _refused(write_zip(path, good, {}))
    assert "not all values of a" in _refused(write_zip(path, good, {"0": bytes(12)}))
    assert "big-endian" in _refused(write_zip(path, good, data, byteorder=b"big"))
    assert "compressed" in _refused(write_zip(path, good, data, compressed=True))
    assert "os.system" in _refused(write_zip(path, b"cos\nsystem\n.", data))
    assert "no state dict" in _refused(write_zip(path, b"N.", data))
    whole = write_zip(path, good, data).read_bytes()
    path.write_bytes(whole[:-40])
    assert "damaged" in _refused(path)
    header = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 1)
    path.write_bytes(whole[: header + 42] + struct.pack("<I", 1 << 31) + whole[header + 46 :])  # a member that begins far outside
    assert "x.bin" in _refused(path)


def test_damaged_rows_of_pickles_are_refused(tmp_path: Path) -> None:
    path = write_legacy_torch_file(tmp_path / "x.bin", arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "not all values of count" in _refused(path)
    path.write_bytes(whole.replace(struct.pack("<q", 35), struct.pack("<q", 1 << 62)))
    assert "size" in _refused(path)
    path.write_bytes(b"no torch file at all")
    assert "x.bin" in _refused(path)
    path.write_bytes(b"")
    assert "x.bin" in _refused(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(list(WRITERS)), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8))
def test_any_damage_is_read_or_refused(tmp_path: Path, writer: str, index: int, patch: bytes) -> None:
    data = bytearray(
        WRITERS[writer](tmp_path / "pytorch_model.bin", {"a": np.ones((3, 2), np.float32), "b": np.ones(4, np.float16)}).read_bytes()
    )
    place = index % len(data)
    data[place : place + len(patch)] = patch
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    with suppress(InvalidInput), open_tensor_files(tmp_path) as file:
        for name in ("a", "b"):
            if name in file.names:
                file.check([SourceTensor(name, (3, 2) if name == "a" else (4,))])
                file.read(name, 0, 1)
