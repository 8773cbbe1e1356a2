"""What a fleet in trouble was worth to its clients: the verdict, in words and as a picture."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from fleet.cli.chaos_load import Asked
from fleet.cli.output import count_text, figure
from sim_devices.chaos import Trouble

LEAST_COMPLETED = 0.995
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _ROW = 900, 260, 56, 16, 40, 14
_INK, _MUTED, _GRID, _LINE, _BAND = "#1f2933", "#616e7c", "#e4e7eb", "#1d6fb8", "#f3c6c0"


@dataclass(frozen=True)
class Verdict:
    """`passed`: no token of any answer differs from what would have come, nothing is left behind, and nearly all requests were answered."""

    seconds: float
    requests: int
    completed: int
    errors: Mapping[str, int]
    wrong: int
    lost: int
    repeated: int
    tokens: int
    longest_pause_seconds: float
    median_pause_seconds: float  # of the longest pause of each answer
    troubles: int
    leaks: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        enough = self.completed >= LEAST_COMPLETED * self.requests
        return bool(self.requests) and enough and not (self.wrong or self.lost or self.repeated or self.leaks)


@dataclass(frozen=True)
class Course:
    """What a picture shows. Times in seconds since the load began."""

    seconds: float
    token_times: Sequence[float]
    troubles: Sequence[Trouble]
    errors: Sequence[float] = field(default=())


def verdict(asked: Sequence[Asked], troubles: Sequence[Trouble], seconds: float, leaks: Sequence[str]) -> Verdict:
    flaws = Counter(one.flaw for one in asked)
    failed = [one for one in asked if one.error]
    return Verdict(
        seconds=seconds,
        requests=len(asked),
        completed=len(asked) - len(failed),
        errors=dict(sorted(Counter(one.error for one in failed).items())),
        wrong=flaws["wrong"],
        lost=flaws["lost"],
        repeated=flaws["repeated"],
        tokens=sum(one.tokens for one in asked),
        longest_pause_seconds=max((one.longest_pause for one in asked), default=0.0),
        median_pause_seconds=statistics.median([one.longest_pause for one in asked]) if asked else 0.0,
        troubles=len(troubles),
        leaks=tuple(leaks),
        examples=tuple(f"after {one.ended:.0f} s: {one.error}: {one.detail}" for one in failed[:5]),
    )


def words(of: Verdict) -> Iterator[str]:
    """The verdict, line by line."""
    share = of.completed / of.requests if of.requests else 0.0
    asked = f"{count_text(of.requests, 'request')}, {count_text(of.tokens, 'token')}"
    yield f"{count_text(of.troubles, 'trouble')} in {of.seconds:.0f} s, {asked}"
    yield f"answered whole: {of.completed} of {of.requests} ({100 * share:.1f} %; at least {100 * LEAST_COMPLETED:.1f} % are asked for)"
    for name, count in of.errors.items():
        yield f"  {name}: {count}"
    yield f"answers with wrong tokens: {of.wrong}, with tokens lost: {of.lost}, with tokens repeated: {of.repeated}"
    yield f"longest pause of an answer: {figure(of.longest_pause_seconds)} s; in the median {figure(of.median_pause_seconds)} s"
    yield "left behind: " + ("; ".join(of.leaks) or "nothing")
    yield "the fleet passed" if of.passed else "the fleet FAILED"


def draw(course: Course, title: str) -> str:
    """Tokens a second over time as SVG, with a band for each trouble and a mark for each error."""
    bins = max(1, round(course.seconds))
    rate = Counter(min(int(at), bins - 1) for at in course.token_times)
    top = max([*rate.values(), 1])
    height = _HEIGHT + _ROW * len(course.troubles)

    def x(seconds: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * min(seconds, course.seconds) / max(course.seconds, 1e-9), 1)

    def y(value: float) -> float:
        return round(_HEIGHT - 30 - (_HEIGHT - 30 - _TOP) * value / top, 1)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="11" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for number, one in enumerate(course.troubles):
        left, right, row = x(one.at_seconds), x(one.at_seconds + one.for_seconds), _HEIGHT + _ROW * number
        place = f'x="{left}" width="{max(right - left, 1):.1f}" fill="{_BAND}"'
        lines.append(f'<rect {place} y="{_TOP}" height="{y(0) - _TOP:.1f}" opacity="0.5"/>')
        lines.append(f'<rect {place} y="{row}" height="{_ROW - 4}"/>')
        beside = f'x="{right + 4}"' if right < 0.8 * _WIDTH else f'x="{left - 4}" text-anchor="end"'
        lines.append(f'<text {beside} y="{row + 9}" fill="{_MUTED}">{escape(one.what)}</text>')
    for value in (0.0, top / 2, float(top)):
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value)}" y2="{y(value)}" stroke="{_GRID}"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4}" text-anchor="end" fill="{_MUTED}">{value:.0f}</text>')
    points = " ".join(f"{x(at + 0.5)},{y(rate[at])}" for at in range(bins))
    lines.append(f'<polyline points="{points}" fill="none" stroke="{_LINE}" stroke-width="1.5"/>')
    lines += [f'<circle cx="{x(at)}" cy="{_TOP + 4}" r="3" fill="#b42318"/>' for at in course.errors]
    axis = f"tokens a second over {course.seconds:.0f} s; bands: troubles, dots: errors"
    lines.append(f'<text x="{_LEFT}" y="{_HEIGHT - 12}" fill="{_MUTED}">{axis}</text>')
    return "\n".join([*lines, "</svg>", ""])
