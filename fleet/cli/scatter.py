"""A scatter plot of a few named points as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape  # nosec B406 # it writes XML

WIDTH, HEIGHT = 1060, 540
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 470, 56, 70
_PALETTE = ("#1b6ca8", "#d1495b", "#2e8b57", "#8e5ea2", "#c77d0a", "#4a4a4a", "#0a8f8f", "#a0522d")


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    label: str


def scatter(title: str, x_title: str, y_title: str, dots: Sequence[Dot]) -> str:
    """Both axes logarithmic; values above 0. Points are numbered, their labels listed beside the plot."""
    x_axis, y_axis = _Axis.of([dot.x for dot in dots]), _Axis.of([dot.y for dot in dots])
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="30" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for tick in x_axis.ticks:
        x = x_axis.place(tick, _LEFT, right)
        out.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#e4e4e4"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for tick in y_axis.ticks:
        y = y_axis.place(tick, bottom, _TOP)
        out.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<rect x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{bottom - _TOP}" fill="none" stroke="#888"/>')
    out.append(f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 22}" text-anchor="middle">{escape(x_title)}</text>')
    middle = (_TOP + bottom) / 2
    out.append(f'<text x="24" y="{middle}" text-anchor="middle" transform="rotate(-90 24 {middle})">{escape(y_title)}</text>')
    for index, dot in enumerate(dots):
        colour = _PALETTE[index % len(_PALETTE)]
        x, y = x_axis.place(dot.x, _LEFT, right), y_axis.place(dot.y, bottom, _TOP)
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}" fill-opacity="0.85"/>')
        out.append(f'<text x="{x + 7:.1f}" y="{y - 6:.1f}" fill="{colour}">{index + 1}</text>')
        beside = _TOP + 14 + 18 * index
        out.append(f'<text x="{right + 16}" y="{beside}" fill="{colour}">{index + 1}  {escape(_short(dot.label))}</text>')
    return "\n".join([*out, "</svg>", ""])


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> _Axis:
        """With room at both ends, and never narrower than a factor of two."""
        low, high = min(values) / 1.3, max(values) * 1.3
        return _Axis(low, max(high, 2 * low))

    @property
    def ticks(self) -> list[float]:
        """1, 2 and 5 of each power of ten."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [tick for power in powers for tick in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if self.low <= tick <= self.high]

    def place(self, value: float, start: float, stop: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return start + share * (stop - start)


def _short(label: str) -> str:
    return label if len(label) <= 64 else label[:63] + "…"
