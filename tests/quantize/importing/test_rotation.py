from __future__ import annotations

import hashlib

import numpy as np
import pytest

from quantize.importing import rotation
from quantize.importing.rotation import Rotation, random_rotation

# Powers of two, odd, both, an odd part that is left unmixed (125), and hidden sizes of real models.
ORDERS = [1, 2, 3, 16, 45, 72, 125, 250, 576, 2048]


def _kronecker(turn: Rotation) -> np.ndarray:
    """Q by its definition, in float64."""
    hadamard = np.ones((1, 1))
    while len(hadamard) < turn.order // len(turn.mixing):
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    return turn.signs.astype(np.float64)[:, None] * np.kron(turn.mixing.astype(np.float64), hadamard)


def _dense(turn: Rotation) -> np.ndarray:
    """Q as its products give it, in float32."""
    return turn.rotate_rows(np.eye(turn.order, dtype=np.float32))


@pytest.mark.parametrize("order", ORDERS)
def test_it_is_orthogonal(order: int) -> None:
    dense = _dense(random_rotation(order, "a")).astype(np.float64)
    assert np.abs(dense @ dense.T - np.eye(order)).max() < 5e-7
    assert np.abs(dense.T @ dense - np.eye(order)).max() < 5e-7


@pytest.mark.parametrize("order", ORDERS)
def test_fast_products_are_the_dense_ones(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "_CHUNK_ELEMENTS", 2 * order)  # the 7 rows go in several chunks
    turn = random_rotation(order, "a")
    dense = _kronecker(turn)
    matrix = np.random.default_rng(0).standard_normal((7, order)).astype(np.float32)
    before = matrix.copy()
    rows = turn.rotate_rows(matrix)
    assert np.abs(rows - matrix.astype(np.float64) @ dense).max() < 5e-6
    assert np.array_equal(matrix, before)
    columns = np.ascontiguousarray(matrix.T)
    turn.rotate_columns(columns)
    assert np.array_equal(columns, rows.T)


def test_the_transpose_is_the_inverse() -> None:
    turn = random_rotation(576, "a")
    matrix = np.random.default_rng(0).standard_normal((5, 576)).astype(np.float32)
    rotated = turn.rotate_rows(matrix)
    assert np.abs(rotated - matrix).max() > 0.5
    assert np.abs(rotated @ _dense(turn).T - matrix).max() < 1e-5


@pytest.mark.parametrize("order", [64, 576, 3072])
def test_an_outlier_is_spread_over_the_row(order: int) -> None:
    spread = _dense(random_rotation(order, "a"))
    assert np.abs(spread).max() < 3 / np.sqrt(order)


@pytest.mark.parametrize(
    ("order", "digest"),
    [
        (64, "0bdb1e4e8e6b8aca"),  # pragma: allowlist secret
        (576, "1eff7bfda5161594"),  # pragma: allowlist secret
        (3072, "aefcc09643231b6c"),  # pragma: allowlist secret
    ],
)
def test_the_same_to_the_bit_everywhere(order: int, digest: str) -> None:
    """Of the factors and of a product: an artifact's digest hangs on them."""
    turn = random_rotation(order, "a")
    matrix = (np.arange(3 * order, dtype=np.float32).reshape(3, order) - np.float32(order)) / np.float32(7)
    data = b"".join(array.astype("<f4").tobytes() for array in (turn.signs, turn.mixing, turn.rotate_rows(matrix)))
    assert hashlib.sha256(data).hexdigest()[:16] == digest


def test_another_seed_is_another_rotation() -> None:
    assert not np.array_equal(random_rotation(64, "a").signs, random_rotation(64, "b").signs)
    assert not np.allclose(random_rotation(72, "a").mixing, random_rotation(72, "b").mixing)
