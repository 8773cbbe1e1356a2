"""What the demo showed, as one picture: the ring of devices with their layers, what was asked and answered, and what each device spent."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape  # nosec B406 # it writes XML

from fleet.answering.views import GenerateResult
from fleet.cli.costs import combined, summary
from fleet.cli.output import count_text, figure
from fleet.planning.plan import Plan, StagePlan
from fleet.telemetry.views import DeviceCost

_LEAST_WIDTH, _LEAST_BOX = 1000, 240
_EDGE, _GAP, _TOP, _BOX, _LINE = 30, 46, 70, 132, 20
_COLUMNS, _MOST_LINES = 120, 8  # of an answer's text
_NAME, _PROFILE = 19, 24  # characters that have room
_INK, _QUIET, _RING, _BAR, _PAPER = "#222", "#666", "#1b6ca8", "#c77d0a", "#fff"


def picture(plan: Plan, asked: Sequence[tuple[str, GenerateResult]]) -> str:
    """An SVG of the plan's stages and of prompts with their answers."""
    costs = {cost.device_id: cost for cost in combined([result for _, result in asked])}
    count = len(plan.stages)
    width = max(_LEAST_WIDTH, 2 * _EDGE + count * _LEAST_BOX + (count - 1) * _GAP)
    out = [*_ring(plan.stages, costs, width)]
    y = _TOP + _BOX + 84
    for prompt, result in asked:
        lines, y = _answer(prompt, result, y)
        out += lines
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" font-family="sans-serif" '
        f'font-size="13" fill="{_INK}">'
    )
    title = _text(_EDGE, 38, f"{plan.model} over {count_text(count, 'device')}", size=18, bold=True)
    return "\n".join([head, f'<rect width="{width}" height="{y}" fill="{_PAPER}"/>', title, *out, "</svg>", ""])


def _ring(stages: Sequence[StagePlan], costs: Mapping[str, DeviceCost], whole: int) -> list[str]:
    width = (whole - 2 * _EDGE - _GAP * (len(stages) - 1)) / len(stages)
    most = max((cost.joules or 0.0 for cost in costs.values()), default=0.0)
    out = [
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{_RING}"/></marker></defs>'
    ]
    for place, stage in enumerate(stages):
        x = _EDGE + place * (width + _GAP)
        out.append(f'<rect x="{x:.1f}" y="{_TOP}" width="{width:.1f}" height="{_BOX}" rx="8" fill="#f4f8fb" stroke="{_RING}"/>')
        first, last = stage.first_layer, stage.stop_layer - 1
        layers = (f"layers {first} to {last}" if last > first else f"layer {first}") + (", head" if place == 0 else "")
        kind = f"{_short(stage.profile, _PROFILE)}{', simulated' if stage.simulated else ''}"
        out += [
            _text(x + 12, _TOP + 24, _short(stage.device_name, _NAME), size=15, bold=True),
            _text(x + 12, _TOP + 44, kind, colour=_QUIET),
            _text(x + 12, _TOP + 64, layers),
        ]
        if (cost := costs.get(stage.device_id)) is not None:
            out += _cost(cost, x + 12, width - 24, most)
        if place:
            middle = _TOP + _BOX / 2
            out.append(_arrow(f"M{x - _GAP + 4:.1f},{middle} H{x - 4:.1f}"))
    if len(stages) > 1:
        low = _TOP + _BOX + 26
        back = f"M{whole - _EDGE - width / 2:.1f},{_TOP + _BOX + 2} V{low} H{_EDGE + width / 2:.1f} V{_TOP + _BOX + 4}"
        out.append(_arrow(back))
        out.append(_text(whole / 2, low + 16, "each token goes round once; none waits for the coordinator", colour=_QUIET, middle=True))
    return out


def _cost(cost: DeviceCost, x: float, width: float, most: float) -> list[str]:
    seconds = cost.busy_seconds if cost.modelled_busy_seconds is None else cost.modelled_busy_seconds
    joules = "not metered" if cost.joules is None else f"{figure(cost.joules)} J {cost.source}"
    full = width * (cost.joules or 0.0) / most if most else 0.0
    return [
        _text(x, _TOP + 92, f"{joules}, busy {figure(seconds)} s"),
        f'<rect x="{x:.1f}" y="{_TOP + 102}" width="{width:.1f}" height="10" fill="#e6e6e6"/>',
        f'<rect x="{x:.1f}" y="{_TOP + 102}" width="{full:.1f}" height="10" fill="{_BAR}"/>',
    ]


def _answer(prompt: str, result: GenerateResult, y: int) -> tuple[list[str], int]:
    lines = [line for paragraph in result.text.strip().splitlines() for line in textwrap.wrap(paragraph, _COLUMNS)]
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], "…"]
    out = [_text(_EDGE, y, textwrap.shorten(prompt, _COLUMNS, placeholder=" …"), bold=True)]
    out += [_text(_EDGE, y + _LINE * (number + 1), line) for number, line in enumerate(lines)]
    y += _LINE * (len(lines) + 1)
    told = textwrap.wrap(summary(result), _COLUMNS)
    out += [_text(_EDGE, y + _LINE * number, line, colour=_QUIET, size=12) for number, line in enumerate(told)]
    return out, y + _LINE * len(told) + 16


def _text(x: float, y: float, text: str, *, size: int = 13, bold: bool = False, colour: str = _INK, middle: bool = False) -> str:
    weight, anchor = ' font-weight="bold"' if bold else "", ' text-anchor="middle"' if middle else ""
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}" fill="{colour}"{weight}{anchor}>{escape(text)}</text>'


def _arrow(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="{_RING}" stroke-width="2" marker-end="url(#tip)"/>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
