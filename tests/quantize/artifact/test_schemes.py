"""Levels around zero points: what comes back, how it is packed, and which scheme loses least."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import InvalidInput
from quantize.artifact.schemes import Scheme, Stored
from quantize.blocks import BLOCK_SIZES

SCHEMES = [Scheme(bits, block, symmetric) for bits in (4, 8) for block in (32, 128) for symmetric in (True, False)]
WEIGHTS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 150)), elements=st.floats(-1e6, 1e6, width=32))


@given(WEIGHTS, st.sampled_from(SCHEMES))
def test_no_block_is_worse_than_its_plain_range(weight: npt.NDArray[np.float32], scheme: Scheme) -> None:
    """Rounding to the nearest level of the whole range is off by half a step at most (a step more where one sign has a level less)."""
    back = scheme.dequantize(scheme.quantize(weight), weight.shape[1])
    assert back.shape == weight.shape
    for start in range(0, weight.shape[1], scheme.block_size):
        own, found = (array[:, start : start + scheme.block_size].astype(np.float64) for array in (weight, back))
        span = np.maximum(own.max(axis=1), 0) - np.minimum(own.min(axis=1), 0)
        step = (2 * np.abs(own).max(axis=1) if scheme.symmetric else span) / (2**scheme.bits - 2)
        assert (np.sqrt(np.square(found - own).sum(axis=1)) <= step * np.sqrt(own.shape[1]) * 1.01 + 1e-30).all()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_shapes_are_those_announced_and_zeros_stay(scheme: Scheme) -> None:
    for columns in (1, 32, 33, 96, 160, 256):
        stored = scheme.quantize(np.zeros((3, columns), np.float32))
        found = {name: (array.dtype.name, array.shape) for name, array in vars(stored).items() if array is not None}
        assert found == scheme.shapes(3, columns)
        assert not scheme.dequantize(stored, columns).any()


def test_two_values_share_a_byte_the_first_in_its_low_half() -> None:
    stored = Scheme(4, 32).quantize(np.arange(-8, 24, dtype=np.float32)[None].clip(-8, 7))
    assert stored.scales.tolist() == [[1.0]]
    assert stored.weight[0, 0, :8].tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    odd = Scheme(4, 32, symmetric=False).quantize(np.tile(np.linspace(0, 15, 32, dtype=np.float32), 3)[None])
    assert odd.zero_points is not None
    assert odd.zero_points.tolist() == [[0, 0]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_too_large_to_be_fitted_are_refused_by_name(symmetric: bool) -> None:
    weight = np.full((1, 32), 3e38, np.float32)
    with pytest.raises(InvalidInput, match=r"layers\.0\.o\.weight"):
        Scheme(4, 32, symmetric).quantize(weight, "layers.0.o.weight")


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_important_column_is_nearer(symmetric: bool) -> None:
    """By the errors weighed with it, what was chosen with it is better than what was chosen without; and the other way round."""
    rng = np.random.default_rng(0)
    weight, importance = rng.standard_normal((64, 128)).astype(np.float32), rng.gamma(0.3, size=128).astype(np.float32)
    scheme = Scheme(4, 32, symmetric)

    def loss(stored: Stored, columns: npt.NDArray[np.float32]) -> float:
        return float((np.square(scheme.dequantize(stored, 128) - weight) * columns).sum())

    plain, weighed = scheme.quantize(weight), scheme.quantize(weight, importance=importance)
    assert loss(weighed, importance) < loss(plain, importance)
    assert loss(plain, np.ones_like(importance)) < loss(weighed, np.ones_like(importance))


def test_finer_schemes_lose_less() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32) + np.float32(0.5)

    def loss(scheme: Scheme) -> float:
        return float(np.square(scheme.dequantize(scheme.quantize(weight), 256) - weight).mean())

    for block in BLOCK_SIZES[:2]:
        assert loss(Scheme(8, block, False)) < loss(Scheme(8, block)) < loss(Scheme(4, block, False)) < loss(Scheme(4, block))
    assert loss(Scheme(4, 32)) < loss(Scheme(4, 128))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(scheme: Scheme, value: float) -> None:
    weight = np.ones((2, 40), np.float32)
    weight[1, 39] = value
    with pytest.raises(InvalidInput, match=r"layers\.0\.o\.weight holds a value that is not finite"):
        scheme.quantize(weight, "layers.0.o.weight")


def test_what_the_kernels_lack() -> None:
    for scheme in (Scheme(3, 32), Scheme(8, 48)):
        with pytest.raises(InvalidInput, match="not supported"):
            scheme.check()
