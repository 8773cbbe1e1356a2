from __future__ import annotations

import pytest

from protos.even import even_down, even_up


@pytest.mark.parametrize(("count", "above", "below"), [(0, 0, 0), (1, 2, 0), (2, 2, 2), (7, 8, 6)])
def test_the_nearest_even_numbers(count: int, above: int, below: int) -> None:
    assert (even_up(count), even_down(count)) == (above, below)
