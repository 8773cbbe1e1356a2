"""How many rows of a prompt run at once."""

from __future__ import annotations

from protos.physics.chunks import ALONE_SECONDS, BESIDE_DECODE_SECONDS, LEAST_ALONE_ROWS, LEAST_BESIDE_ROWS, MOST_ALONE_ROWS, ChunkSizes


def rows(sizes: ChunkSizes) -> tuple[int, int, int]:
    """Beside decode, beside other prompts, alone."""
    return (
        sizes.rows(others_prefill=False, others_decode=True),
        sizes.rows(others_prefill=True, others_decode=False),
        sizes.rows(others_prefill=False, others_decode=False),
    )


def test_unmeasured_chunks_are_short() -> None:
    assert rows(ChunkSizes(256)) == (2 * LEAST_BESIDE_ROWS, 2 * LEAST_BESIDE_ROWS, 2 * LEAST_ALONE_ROWS)


def test_a_fast_device_takes_what_fits_the_budget() -> None:
    sizes = ChunkSizes(256).measured(64, 64 / 1000)  # 1,000 rows a second
    assert rows(sizes) == (80, 120, MOST_ALONE_ROWS)


def test_a_slow_device_is_bounded_below_and_every_size_is_even() -> None:
    sizes = ChunkSizes(256).measured(32, 32 / 10)
    assert rows(sizes) == (LEAST_BESIDE_ROWS, LEAST_BESIDE_ROWS, LEAST_ALONE_ROWS)
    sizes = ChunkSizes(256).measured(32, 32 / 411)
    assert all(count % 2 == 0 for count in rows(sizes))
    assert rows(sizes)[0] <= 411 * BESIDE_DECODE_SECONDS < rows(sizes)[2] <= 411 * ALONE_SECONDS


def test_messages_bound_all() -> None:
    sizes = ChunkSizes(10).measured(64, 64 / 1000)
    assert rows(sizes) == (10, 10, 10)


def test_one_hiccup_does_not_decide() -> None:
    sizes = ChunkSizes(256)
    for _ in range(5):
        sizes = sizes.measured(64, 0.064)
    sizes = sizes.measured(64, 0.64)
    assert 16 <= sizes.rows(others_prefill=False, others_decode=True) < 80
    assert sizes.measured(2, 9.0) == sizes  # too short to tell
    for _ in range(12):
        sizes = sizes.measured(64, 0.064)
    assert sizes.rows(others_prefill=False, others_decode=True) > 70
