from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_devices.profiles import UNITS, Figure, Profile, list_profiles, load_profile
from sim_devices.roofline import model

amounts = st.floats(0, 1e12)


def a_profile(**figures: float) -> Profile:
    values = {
        "memory": 1e9,
        "memory_bandwidth": 20e9,
        "memory_bandwidth_efficiency": 0.5,
        "compute": 2e12,
        "compute_efficiency": 0.5,
        "launch": 1e-3,
        "idle_power": 2.0,
        "tdp": 10.0,
        "memory_energy": 50e-12,
        "compute_energy": 1e-12,
        **figures,
    }
    return Profile("p", "a test", {key: Figure(values[key], unit, "a test", "estimated") for key, unit in UNITS.items()})


def test_a_step_bound_by_memory() -> None:
    run = model(a_profile(), read_bytes=1e8, macs=1e6)
    assert run.seconds == pytest.approx(0.010 + 0.001)
    assert run.joules == pytest.approx(2.0 * 0.011 + 1e8 * 50e-12 + 1e6 * 1e-12)


def test_a_step_bound_by_arithmetic() -> None:
    assert model(a_profile(), read_bytes=1, macs=4e9).seconds == pytest.approx(0.004 + 0.001)


def test_a_step_that_would_exceed_the_tdp_takes_longer() -> None:
    free, capped = (model(a_profile(memory_energy=5e-9, tdp=tdp), read_bytes=1e8, macs=0) for tdp in (1000.0, 10.0))
    assert free.seconds == pytest.approx(0.011)
    assert capped.joules / capped.seconds == pytest.approx(10.0)
    # 0.5 J of memory traffic within the 8 W that idling leaves.
    assert capped.seconds == pytest.approx(0.5 / 8.0)


@settings(derandomize=True)
@given(st.sampled_from(list_profiles()), amounts, amounts, amounts, amounts)
def test_more_work_never_takes_less_and_power_stays_within_the_tdp(
    name: str, read_bytes: float, macs: float, more_bytes: float, more_macs: float
) -> None:
    profile = load_profile(name)
    run, longer = (
        model(profile, read_bytes=read_bytes, macs=macs),
        model(profile, read_bytes=read_bytes + more_bytes, macs=macs + more_macs),
    )
    assert longer.seconds >= run.seconds > 0
    assert longer.joules >= run.joules
    assert profile.idle_watts * run.seconds <= run.joules <= profile.tdp_watts * run.seconds * (1 + 1e-9)


# Published decode speeds of single streams, which batch-1 models should reach within 35 %: weights in bytes, tokens per second.
@pytest.mark.parametrize(
    ("name", "weight_bytes", "tokens_per_second"),
    [
        ("rk3588", 1.5e9, 11.2),  # RKLLM, 1.5B W8A8
        ("jetson-orin-nano-super", 8.03e9 / 2, 19.14),  # NVIDIA, Llama-3.1-8B INT4
        ("jetson-orin-nano-super", 3.21e9 / 2, 43.07),  # NVIDIA, Llama-3.2-3B INT4
    ],
)
def test_published_speeds_are_met_within_35_percent(name: str, weight_bytes: float, tokens_per_second: float) -> None:
    predicted = 1 / model(load_profile(name), read_bytes=weight_bytes, macs=2 * weight_bytes).seconds
    assert predicted == pytest.approx(tokens_per_second, rel=0.35)


@pytest.mark.parametrize(
    ("name", "milliseconds", "memory_millijoules"),
    [("jetson-orin-nano-super", 2.0, 7.3), ("horizon-journey-5", 3.9, 8.3), ("raspberry-pi-5", 11.8, 8.3)],
)
def test_a_130_million_parameter_step_by_hand(name: str, milliseconds: float, memory_millijoules: float) -> None:
    profile = load_profile(name)
    run = model(profile, read_bytes=130e6, macs=130e6)
    assert 1e3 * (run.seconds - profile.launch_seconds) == pytest.approx(milliseconds, rel=0.03)
    assert 1e3 * (run.joules - profile.idle_watts * run.seconds) == pytest.approx(memory_millijoules, rel=0.03)
