"""Counts of bytes as people read them."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB")


def bytes_text(count: float) -> str:
    """ "1.5 GiB", "192 MiB": a decimal below 100, none from there on, and the next unit as soon as 1024 would stand here.

    >>> bytes_text(1023), bytes_text(1536 * 1024**2)
    ('1023 B', '1.5 GiB')
    """
    value = float(count)
    for unit in _UNITS:
        if round(value) < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
