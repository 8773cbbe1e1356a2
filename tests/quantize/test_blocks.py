from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from protos.errors import InvalidInput
from quantize.blocks import BLOCK_SIZES, SMALLEST_ABSMAX, check_block_size, dequantize, padded, quantize

_weights = st.tuples(st.integers(1, 4), st.integers(1, 200)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-(2.0**126), 2.0**126, width=32))
)


@given(_weights, st.sampled_from(BLOCK_SIZES))
def test_every_weight_comes_back_within_half_a_step(weight: npt.NDArray[np.float32], block_size: int) -> None:
    quantized, scales = quantize(weight, block_size)
    back = dequantize(quantized, scales, weight.shape[1])
    step = np.repeat(scales, block_size, axis=1)[:, : weight.shape[1]].astype(np.float64)
    # Half a step; a rounding of the quotient (127 at most) and one of the product; and what is flushed to zero.
    allowed = step * (0.5 + 127 * 2**-22) + (step == 0) * SMALLEST_ABSMAX
    assert (np.abs(back.astype(np.float64) - weight) <= allowed).all()


@given(_weights, st.sampled_from(BLOCK_SIZES))
def test_shapes_range_and_padding(weight: npt.NDArray[np.float32], block_size: int) -> None:
    quantized, scales = quantize(weight, block_size)
    rows, columns = weight.shape
    blocks = -(-columns // block_size)
    assert quantized.shape == (rows, blocks, block_size)
    assert (quantized.dtype, scales.dtype) == (np.uint8, np.float32)
    assert scales.shape == (rows, blocks)
    assert quantized.min() >= 1
    assert (quantized.reshape(rows, -1)[:, columns:] == 128).all()


@given(_weights, st.sampled_from(BLOCK_SIZES))
def test_the_largest_weight_of_a_block_uses_the_whole_range(weight: npt.NDArray[np.float32], block_size: int) -> None:
    quantized, scales = quantize(weight, block_size)
    reach = np.abs(quantized.astype(int) - 128).max(axis=-1)
    assert ((reach == 127) | (scales == 0)).all()


def test_zeros_stay_zeros_beside_other_blocks() -> None:
    weight = np.concatenate([np.zeros((2, 32), np.float32), np.ones((2, 32), np.float32)], axis=1)
    quantized, scales = quantize(weight, 32)
    assert scales[:, 0].tolist() == [0, 0]
    assert np.array_equal(dequantize(quantized, scales, 64), weight)


def test_exact_values() -> None:
    weight = np.zeros((1, 32), np.float32)
    weight[0, :4] = [127, -127, 2.4, -0.6]
    quantized, scales = quantize(weight, 32)
    assert scales.tolist() == [[1.0]]
    assert quantized[0, 0, :5].tolist() == [255, 1, 130, 127, 128]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named(value: float) -> None:
    weight = np.ones((3, 40), np.float32)
    weight[1, 39] = value
    with pytest.raises(InvalidInput, match=r"layers\.0\.o\.weight"):
        quantize(weight, 32, "layers.0.o.weight")


def test_padded() -> None:
    assert [padded(count, 32) for count in (0, 1, 32, 33)] == [0, 32, 32, 64]


def test_only_shared_block_sizes() -> None:
    for block_size in BLOCK_SIZES:
        check_block_size(block_size)
    with pytest.raises(InvalidInput, match="block size 48"):
        check_block_size(48)
