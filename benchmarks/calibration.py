"""How near the models come to what has been published: efficiencies fitted on one half of the points, judged on the other.

python -m benchmarks.calibration            the table
python -m benchmarks.calibration --fit      what the fit gives, to be written into the profiles
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from benchmarks.published import POINTS, Point
from protos.physics.roofline import Figures, Roofline
from sim_devices.profiles import Profile, load_profile

TOLERANCE = 0.35
# Where it is known to miss, and why.
MISSES = {
    ("jetson-orin-nano-super", "Gemma 2 9B", "decode"): "its 5.4 GB of weights and its cache leave an 8 GB board no room",
    ("rk3588", "Qwen3 0.6B", "prefill"): "small matrices use less of the NPU's arithmetic than large ones, which one share does not tell",
}
# Of what is fitted, to two digits: shares of the peak, and microseconds an operator. A point or two say nothing of the latter.
_SHARES = [share / 100 for share in range(1, 101)]
_OPERATOR_MICROSECONDS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30]
_ENOUGH_FOR_OPERATORS = 3


@dataclass(frozen=True)
class Fit:
    """None: nothing to fit it on."""

    bandwidth: float
    compute: float | None
    operator_seconds: float | None


def predicted(figures: Figures, point: Point) -> float:
    """In the point's unit."""
    seconds = Roofline(figures).estimate(point.run()).seconds
    return 1 / seconds if point.phase == "decode" else seconds


def error(figures: Figures, point: Point) -> float:
    """How much faster than published, as a share: 0.1 is 10 % too fast."""
    ratio = predicted(figures, point) / point.published
    return ratio - 1 if point.phase == "decode" else 1 / ratio - 1


def fit(profile: Profile, points: Sequence[Point]) -> Fit:
    """Least squares of the logarithms, over a grid: first decode, by memory and operators, then prefill, by arithmetic."""
    decode = [point for point in points if point.phase == "decode" and point.use == "fit"]
    prefill = [point for point in points if point.phase == "prefill" and point.use == "fit"]
    base = profile.effective
    several = len(decode) >= _ENOUGH_FOR_OPERATORS
    operators = [us * 1e-6 for us in _OPERATOR_MICROSECONDS] if several else [base.operator_seconds]
    share, operator = min(
        product(_SHARES, operators),
        key=lambda pair: (_squares(_with(profile, pair[0], None, pair[1]), decode), pair),
    )
    if not prefill:
        return Fit(share, None, operator if several else None)
    compute = min(_SHARES, key=lambda one: (_squares(_with(profile, share, one, operator), prefill), one))
    return Fit(share, compute, operator)


def by_profile() -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in POINTS:
        found.setdefault(point.profile, []).append(point)
    return found


def _with(profile: Profile, bandwidth: float, compute: float | None, operator_seconds: float) -> Figures:
    peak, macs = profile.figures["memory_bandwidth"].value, profile.figures["compute"].value
    figures = replace(
        profile.effective,
        linear_bytes_per_second=peak * bandwidth,
        attention_bytes_per_second=peak * bandwidth,
        operator_seconds=operator_seconds,
    )
    if compute is None:
        return figures
    return replace(figures, linear_macs_per_second=macs * compute, attention_macs_per_second=macs * compute)


def _squares(figures: Figures, points: Sequence[Point]) -> float:
    return sum(math.log(predicted(figures, point) / point.published) ** 2 for point in points)


def rows() -> list[tuple[Point, float, float]]:
    """(point, predicted, error) of all, by the profiles as they are."""
    figures = {name: load_profile(name).effective for name in by_profile()}
    return [(point, predicted(figures[point.profile], point), error(figures[point.profile], point)) for point in POINTS]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="print what the fit gives for each profile")
    if parser.parse_args(arguments).fit:
        for name, points in by_profile().items():
            print(name, fit(load_profile(name), points))
        return
    print(f"| profile | model | | point | published | predicted | error % | within {TOLERANCE:.0%} |\n|---|---|---|---|---|---|---|---|")
    for point, value, off in rows():
        unit = "tokens/s" if point.phase == "decode" else f"s, prefill of {point.prompt}"
        within = "yes" if abs(off) <= TOLERANCE else "**no**"
        print(
            f"| {point.profile} | {point.name} | {point.phase} | {point.use} | {point.published:.3g} {unit} | {value:.3g} "
            f"| {100 * off:+.0f} | {within} |"
        )
    for (profile, name, phase), why in MISSES.items():
        print(f"\n{profile}, {name}, {phase}: {why}.")


if __name__ == "__main__":
    main()
