"""A quality report as a picture: SVG, drawn without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from quantize.quality.report import QualityReport
from quantize.quality.scores import MeanInterval

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 124, 56
_INK, _MUTED, _GRID, _LINE, _BAND = "#1f2933", "#616e7c", "#e4e7eb", "#1d6fb8", "#bcdcf5"


def draw(title: str, report: QualityReport) -> str:
    """The error of the residual stream after each layer in % with its 95 % band, and the report's figures above it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'font-family="sans-serif" font-size="13" fill="{_INK}">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            *_heading(title, report),
            *_chart(report.layers),
            "</svg>",
            "",
        ]
    )


def figures(report: QualityReport) -> tuple[str, ...]:
    """The report in words, intervals in brackets."""
    found, held = report.quality, report.circumstances
    return (
        f"perplexity {found.perplexity.value:.3f}, fp32 {found.reference_perplexity.value:.3f}: "
        f"{_interval(found.perplexity_change, 2, 100, sign='+')} %",
        f"KL(fp32 ‖ int8) {_interval(found.kl_divergence, 4)} nats/token, same top token {_interval(found.top1_agreement, 1, 100)} %",
        f"relative rms error of the logits {_interval(found.logits_relative_rms, 2, 100)} %",
        f"{held.tokens:,} tokens of {held.text} in windows of {held.window_tokens}; brackets: 95 % intervals",
    )


def _interval(figure: MeanInterval, digits: int, factor: float = 1, sign: str = "") -> str:
    value, low, high = (f"{factor * number:{sign}.{digits}f}" for number in (figure.value, figure.low, figure.high))
    return f"{value} [{low}, {high}]"


def _heading(title: str, report: QualityReport) -> Iterator[str]:
    yield f'<text x="{_LEFT}" y="26" font-size="16" font-weight="bold">{escape(title)}</text>'
    for number, line in enumerate(figures(report)):
        yield f'<text x="{_LEFT}" y="{46 + 17 * number}" font-size="12" fill="{_MUTED}">{escape(line)}</text>'


def _chart(layers: Sequence[MeanInterval]) -> Iterator[str]:
    step, top = _scale(100 * max(layer.high for layer in layers))
    last = max(1, len(layers) - 1)

    def x(layer: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * layer / last, 1)

    def y(percent: float) -> float:
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * percent / top, 1)

    for tick in range(round(top / step) + 1):
        percent = tick * step
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(percent)}" y2="{y(percent)}" stroke="{_GRID}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y(percent) + 4}" text-anchor="end">{percent:.3g}</text>'
    for layer in range(0, len(layers), max(1, math.ceil(len(layers) / 15))):
        yield f'<text x="{x(layer)}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{layer}</text>'
    upper = [f"{x(number)},{y(100 * layer.high)}" for number, layer in enumerate(layers)]
    lower = [f"{x(number)},{y(100 * layer.low)}" for number, layer in enumerate(layers)]
    middle = [f"{x(number)},{y(100 * layer.value)}" for number, layer in enumerate(layers)]
    yield f'<polygon points="{" ".join([*upper, *reversed(lower)])}" fill="{_BAND}"/>'
    yield f'<polyline points="{" ".join(middle)}" fill="none" stroke="{_LINE}" stroke-width="2"/>'
    yield from (f'<circle cx="{point.partition(",")[0]}" cy="{point.partition(",")[2]}" r="2.5" fill="{_LINE}"/>' for point in middle)
    yield f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 14}" text-anchor="middle">layer</text>'
    at = (_TOP + _HEIGHT - _BOTTOM) / 2
    yield f'<text x="18" y="{at}" text-anchor="middle" transform="rotate(-90 18 {at})">relative rms error after it, %</text>'


def _scale(largest: float) -> tuple[float, float]:
    """(step, top) of an axis from 0: four to ten steps of 1, 2 or 5 times a power of ten that reach `largest`."""
    if largest <= 0:
        return 0.25, 1.0
    power = 10.0 ** math.floor(math.log10(largest / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if largest / (factor * power) <= 8)
    return step, step * math.ceil(largest / step)
