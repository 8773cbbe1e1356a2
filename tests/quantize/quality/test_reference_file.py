"""Another framework's logits: what is read, and what is refused in one line."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from protos.errors import InvalidInput
from quantize.quality.reference_file import read_reference

GOOD = {"ids_0": np.arange(3), "logits_0": np.zeros((3, 7)), "ids_1": np.arange(2, dtype=np.int32), "logits_1": np.ones((2, 7), np.float16)}


def test_sequences_come_in_order_and_in_our_types(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **GOOD)  # type: ignore[arg-type]
    first, second = read_reference(tmp_path / "a.npz", 7, 10)
    assert first.token_ids.tolist() == [0, 1, 2]
    assert (second.token_ids.dtype, second.logits.dtype, second.logits.shape) == (np.int64, np.float32, (2, 7))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids_0": np.arange(4)}, "logits_0 is float64 [3, 7], not floats [4, 7]"),
        ({"ids_0": np.arange(3.0)}, "ids_0 is float64 [3], not integers [S]"),
        ({"ids_0": np.zeros((1, 3), int)}, "ids_0 is int64 [1, 3], not integers [S]"),
        ({"ids_0": np.array([0, 1, 7])}, "ids_0 holds a token beyond the vocabulary of 7"),
        ({"ids_0": np.array([0, -1, 2])}, "ids_0 holds a token beyond the vocabulary of 7"),
        ({"logits_0": np.zeros((3, 7), int)}, "logits_0 is int64 [3, 7], not floats [3, 7]"),
        ({"logits_0": np.full((3, 7), np.nan)}, "logits_0 holds a value that is not finite"),
        ({"ids_0": np.zeros(11, int), "logits_0": np.zeros((11, 7))}, "ids_0 has 11 tokens, the model takes 10"),
        ({"ids_2": np.arange(2)}, "has other arrays than ids_0 … and logits_0 …: logits_2"),
        ({"ids_0": None}, "has other arrays than ids_0 … and logits_0 …: ids_0"),
        ({"ids_0": np.array([object()])}, "cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arrays(tmp_path: Path, change: dict[str, np.ndarray | None], said: str) -> None:
    arrays = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput) as refused:
        read_reference(tmp_path / "a.npz", 7, 10)
    assert said in refused.value.detail
    assert "\n" not in refused.value.detail
    assert "numpy.savez" in refused.value.advice


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.arange(3))
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("ids_0.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999,), }")
        archive.writestr("logits_0.npy", b"")
    np.savez(tmp_path / "empty.npz")
    for name in ("text.npz", "one.npy", "other.npz", "empty.npz", "none.npz"):
        with pytest.raises(InvalidInput) as refused:
            read_reference(tmp_path / name, 7, 10)
        assert name in refused.value.detail
        assert len(refused.value.detail) < 300
