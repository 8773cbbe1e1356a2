"""Hidden rows on the wire: what is lost, and that a row's bytes are its own."""

from __future__ import annotations

import numpy as np
import pytest

from device.pipeline.wire import decode, encode
from protos.dtypes import WIRE_BLOCK, WireDtype, row_bytes
from protos.errors import InvalidInput
from protos.v1 import pipeline_pb2 as pb

TYPES: tuple[WireDtype, ...] = ("float32", "float16", "int8")


def rows(count: int = 5, size: int = 200) -> np.ndarray:
    """With one element a thousand times the others, as residual streams have."""
    values = np.random.default_rng(0).standard_normal((count, size)).astype(np.float32)
    values[:, 7] *= 1000
    return values


def back(values: np.ndarray, dtype: WireDtype) -> np.ndarray:
    count, size = values.shape
    return decode(encode(values, dtype), count, size, dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [1, 63, 64, 65, 576])
def test_a_row_s_bytes_do_not_depend_on_its_company(dtype: WireDtype, size: int) -> None:
    values = rows(6, max(size, 8))[:, :size]
    assert len(encode(values, dtype)) == 6 * row_bytes(size, dtype)
    together = back(values, dtype)
    assert together.dtype == np.float32
    for index in range(6):
        assert np.array_equal(together[index], back(values[index : index + 1], dtype)[0])


@pytest.mark.parametrize("dtype", TYPES)
def test_no_rows_are_no_bytes(dtype: WireDtype) -> None:
    """What a prefill chunk that is not the last gives back."""
    assert encode(rows()[:0], dtype) == b""
    assert decode(b"", 0, 200, dtype).shape == (0, 200)


def test_float32_is_exact() -> None:
    assert np.array_equal(back(rows(), "float32"), rows())


def test_float16_rounds_once_and_cuts_what_is_too_large() -> None:
    values = rows()
    assert np.abs(back(values, "float16") - values).max() <= np.abs(values).max() * 2**-11
    assert back(np.array([[1e6, -np.float32(70_000)]], np.float32), "float16").tolist() == [[65504.0, -65504.0]]


def test_int8_errs_by_half_a_step_of_its_block() -> None:
    values = rows()
    error = np.abs(back(values, "int8") - values)
    for start in range(0, values.shape[1], WIRE_BLOCK):
        block = slice(start, start + WIRE_BLOCK)
        steps = np.abs(values[:, block]).max(axis=1) / 127
        assert (error[:, block].max(axis=1) <= steps * 0.501).all()
    # The large element harms its own block only.
    assert error[:, WIRE_BLOCK:].max() < 0.02


def test_zeros_and_the_smallest_numbers_stay_finite() -> None:
    tiny = np.full((1, 64), np.finfo(np.float32).tiny, np.float32)
    assert np.array_equal(back(np.zeros((2, 100), np.float32), "int8"), np.zeros((2, 100), np.float32))
    assert np.array_equal(back(tiny, "int8"), np.zeros_like(tiny))


def test_what_is_not_finite_does_not_become_a_number() -> None:
    values = rows(2, 128)
    values[0, 3], values[1, 70] = np.nan, np.inf
    found = back(values, "int8")
    assert np.isnan(found[0, 3])
    assert not np.isfinite(found[1, 70])
    assert np.isfinite(found[0, 64:]).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_another_size_is_refused(dtype: WireDtype) -> None:
    data = encode(rows(2, 64), dtype)
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(InvalidInput, match="hidden rows, not 2 x 64"):
            decode(wrong, 2, 64, dtype)


@pytest.mark.parametrize("count", [1, 2, 8, 16])
def test_a_decode_message_is_its_rows_and_at_most_128_bytes(count: int) -> None:
    hidden = encode(rows(count, 2048), "float32")
    message = pb.Microbatch(
        step=1 << 40,
        group=63,
        slots=range(count),
        positions=[32_767] * count,
        rows=count,
        all_wanted=True,
        modelled_at=1234.5,
        hidden=hidden,
    )
    assert pb.FlowMessage(microbatch=message).ByteSize() <= count * 2048 * 4 + 128
    assert len(hidden) == count * 2048 * 4
