"""Counts that must be even, since kernels take rows in pairs: the nearest above and below."""

from __future__ import annotations


def even_up(count: int) -> int:
    """The least even number that is not below `count`."""
    return count + count % 2


def even_down(count: int) -> int:
    """The greatest even number that is not above `count`."""
    return count - count % 2
