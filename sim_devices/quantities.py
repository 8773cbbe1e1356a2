"""Quantities as people and netem write them: "20ms", "10mbit", "1%", "4GiB"."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = r"(\d+(?:\.\d+)?)\s*"
_DURATION = re.compile(_NUMBER + r"(us|ms|s|m|h|d)")
_RATE = re.compile(_NUMBER + r"([kmg]?)bit")
_PERCENT = re.compile(_NUMBER + r"%")
_SIZE = re.compile(_NUMBER + r"(?:([kKMGT])(i?)B|B)?")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 24  # characters: beyond it no quantity of ours makes sense


def seconds(text: str) -> float:
    """Of "250us", "20ms", "1.5s", "10m", "2h", "1d". Raises ValueError.

    >>> seconds("20ms"), seconds("2h")
    (0.02, 7200.0)
    """
    match = _match(_DURATION, text, 'a number with us, ms, s, m, h or d, for example "20ms"')
    return float(match[1]) * _SECONDS[match[2]]


def bits_per_second(text: str) -> float:
    """Of "500kbit", "10mbit", "1gbit": decimal, as tc counts. Raises ValueError, also for 0."""
    match = _match(_RATE, text, 'a number with bit, kbit, mbit or gbit (per second), for example "10mbit"')
    if not float(match[1]):
        raise ValueError('a rate above 0; a link over which nothing passes is a fault: do = "cut A B"')
    return float(match[1]) * 1000.0 ** " kmg".index(match[2] or " ")


def fraction(text: str) -> float:
    """Of "0.1%", "50%": below 1. Raises ValueError."""
    number = float(_match(_PERCENT, text, 'a percentage, for example "1%"')[1])
    if number >= 100:
        raise ValueError('a percentage below 100%; a link over which nothing passes is a fault: do = "cut A B"')
    return number / 100


def size_bytes(text: str) -> int:
    """Of "4GiB", "512MB", "1000000". Raises ValueError, also for 0 and for a part of a byte."""
    match = _match(_SIZE, text, 'a number with KiB, MiB, GiB, kB, MB or GB, for example "4GiB"')
    size = Fraction(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index((match[2] or " ").upper())
    if size < 1 or (not match[2] and size.denominator != 1):
        raise ValueError('a size above 0, in whole bytes, for example "4GiB"')
    return int(size)


def duration_text(value: float) -> str:
    """ "20ms", "1.5s", "2m": the way back, exact to a microsecond."""
    micros = round(value * 1e6)
    for unit, each in (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)):
        if micros and micros % each == 0:
            return f"{micros // each}{unit}"
    if micros >= 1_000_000:
        return f"{micros / 1e6:.6f}".rstrip("0") + "s"
    return f"{micros}us" if micros else "0s"


def rate_text(value: float) -> str:
    """ "10mbit"."""
    for unit, each in (("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)):
        if value >= each:
            return f"{value / each:.6g}{unit}"
    return f"{value:.6g}bit"


def _match(pattern: re.Pattern[str], text: str, allowed: str) -> re.Match[str]:
    match = pattern.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(allowed)
    return match
