"""A program's run as a picture: when each unit was at which operation; as SVG, and as a trace for Perfetto."""

from __future__ import annotations

import json
from xml.sax.saxutils import escape  # nosec B406 # it writes XML

from protos.chip.instructions import UNITS
from protos.chip.timing import Timing

_WIDTH, _LEFT, _TOP, _LANE = 1400, 80, 50, 46
_PALETTE = ("#1b6ca8", "#d1495b", "#2e8b57", "#8e5ea2", "#c77d0a", "#4a4a4a", "#0a8f8f", "#a0522d")
_LEAST_LABEL = 60  # pixels


def drawing(timing: Timing, title: str) -> str:
    """A lane for each unit; within it a bar from an operation's first instruction to its last, with its name in the tooltip."""
    height = _TOP + _LANE * len(UNITS) + 50
    scale = (_WIDTH - _LEFT - 20) / max(timing.cycles, 1.0)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="28" font-size="15" font-weight="bold">{escape(title)}: {1e3 * timing.seconds:.3g} ms</text>',
    ]
    for lane, unit in enumerate(UNITS):
        y = _TOP + lane * _LANE
        out.append(f'<text x="{_LEFT - 8}" y="{y + 20}" text-anchor="end">{unit}</text>')
        out.append(
            f'<text x="{_LEFT - 8}" y="{y + 34}" text-anchor="end" fill="#888">{100 * timing.busy[unit] / timing.cycles:.0f} %</text>'
        )
        for number, operator in enumerate(timing.operators):
            if unit not in operator.spans:
                continue
            start, stop = operator.spans[unit]
            x, width = _LEFT + scale * start, max(scale * (stop - start), 0.3)
            name, colour = escape(operator.name), _PALETTE[number % len(_PALETTE)]
            bar = f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_LANE - 10}" fill="{colour}" fill-opacity="0.75">'
            out.append(f"{bar}<title>{name}: cycles {start:,.0f} to {stop:,.0f}</title></rect>")
            if width > _LEAST_LABEL:
                short = escape(operator.name.rpartition(" ")[2][: int(width / 7)])
                out.append(f'<text x="{x + 3:.2f}" y="{y + 22}" fill="#fff" font-size="10">{short}</text>')
    bottom = _TOP + _LANE * len(UNITS) + 10
    for tenth in range(11):
        x = _LEFT + scale * timing.cycles * tenth / 10
        out.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle" fill="#666">{100 * timing.seconds * tenth:.3g}</text>')
    out.append(f'<text x="{_LEFT}" y="{bottom + 32}" fill="#666">milliseconds</text>')
    return "\n".join([*out, "</svg>", ""])


def chrome_trace(timing: Timing) -> str:
    """JSON in the trace event format: an event for each operation in each unit, in microseconds."""
    micros = 1e6 / timing.core.clock_hertz
    threads = [{"name": "thread_name", "ph": "M", "pid": 1, "tid": number, "args": {"name": unit}} for number, unit in enumerate(UNITS)]
    events = [
        {
            "name": operator.name,
            "ph": "X",
            "pid": 1,
            "tid": UNITS.index(unit),
            "ts": start * micros,
            "dur": (stop - start) * micros,
            "args": {"macs": operator.counts.macs, "dram_bytes": operator.counts.dram_bytes},
        }
        for operator in timing.operators
        for unit, (start, stop) in operator.spans.items()
    ]
    return json.dumps({"traceEvents": [*threads, *events], "displayTimeUnit": "ns"})
