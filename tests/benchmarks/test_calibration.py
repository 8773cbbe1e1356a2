from __future__ import annotations

import pytest

from benchmarks.calibration import MISSES, TOLERANCE, by_profile, error, fit, rows
from benchmarks.published import POINTS
from sim_devices.profiles import load_profile


@pytest.mark.parametrize("name", by_profile())
def test_the_committed_efficiencies_are_what_the_fit_gives(name: str) -> None:
    profile = load_profile(name)
    fitted = fit(profile, by_profile()[name])
    figures = {key: figure.value for key, figure in profile.figures.items()}
    assert figures["linear_bandwidth_efficiency"] == figures["attention_bandwidth_efficiency"] == fitted.bandwidth
    if fitted.compute is not None:
        assert figures["linear_compute_efficiency"] == figures["attention_compute_efficiency"] == fitted.compute
    if fitted.operator_seconds is not None:
        assert figures["operator_launch"] == pytest.approx(fitted.operator_seconds)


def test_published_speeds_are_met_except_those_named() -> None:
    missed = {(point.profile, point.name, point.phase) for point, _, off in rows() if abs(off) > TOLERANCE}
    assert missed == set(MISSES)


def test_as_many_points_are_held_out_as_there_can_be() -> None:
    """Of each profile at least half, unless there is only one or an odd one."""
    for points in by_profile().values():
        held = sum(point.use == "held out" for point in points)
        assert held >= len(points) // 2


def test_an_error_is_positive_where_the_model_is_too_fast() -> None:
    figures = load_profile("rk3588").effective
    decode = next(point for point in POINTS if point.profile == "rk3588" and point.phase == "decode")
    slow = load_profile("raspberry-pi-5").effective
    assert error(slow, decode) < error(figures, decode)
    prefill = next(point for point in POINTS if point.phase == "prefill")
    assert error(slow, prefill) < error(figures, prefill)
