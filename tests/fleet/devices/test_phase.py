from __future__ import annotations

import itertools
from types import ModuleType

import pytest

from fleet.devices import phase
from fleet.devices.liveness import Liveness
from fleet.devices.phase import ObservedDevice, device_phase
from tests.support.mutation import mutated

RULES = Liveness()  # 1 s between samples, suspect after 3, offline after 15 s


@pytest.mark.parametrize(
    ("connected", "silence", "state", "detail"),
    [
        (True, None, "offline", "refused"),
        (True, 0.0, "online", ""),
        (True, 2.9, "online", ""),
        (True, 3.0, "suspect", "no telemetry for 3 s"),
        (False, 0.0, "suspect", "refused"),
        (False, 14.9, "suspect", "refused"),
        (True, 15.0, "offline", "no telemetry for 15 s"),
        (False, 15.0, "offline", "refused"),
    ],
)
def test_state_follows_silence_and_connection(connected: bool, silence: float | None, state: str, detail: str) -> None:
    heard_at = None if silence is None else 100.0 - silence
    found = device_phase(ObservedDevice(connected, heard_at, "refused"), RULES, 100.0, wanted=True).state
    assert (found.name, found.detail) == (state, detail)


RANK = {"online": 0, "suspect": 1, "offline": 2}


def check_all(module: ModuleType) -> None:
    """Every combination, against what must hold of it whatever the figures are."""
    silences = (None, 0.0, 2.9, 3.0, 8.0, 14.9, 15.0, 1000.0)
    for connected, silence, described, goodbye, wanted in itertools.product(
        (True, False), silences, (True, False), (True, False), (True, False)
    ):
        heard_at = None if silence is None else 2000.0 - silence
        observed = module.ObservedDevice(connected, heard_at, "refused", described, goodbye)
        found = module.device_phase(observed, RULES, 2000.0, wanted=wanted)
        name = found.state.name
        assert (name == "online") == (connected and silence is not None and silence < 3.0)
        assert (name == "offline") == (silence is None or silence >= 15.0)
        assert bool(found.state.detail) == (name != "online"), "a state that is not well has its reason"
        assert ("no telemetry" in found.state.detail) == (name != "online" and connected and silence is not None)
        assert found.forget == (goodbye and (not described or (name == "offline" and not wanted)))
        if silence is not None:  # later, nothing is better by itself
            later = module.device_phase(observed, RULES, 2001.0, wanted=wanted)
            assert RANK[later.state.name] >= RANK[name]
            assert later.forget >= found.forget


def test_every_combination() -> None:
    check_all(phase)


MUTATIONS = {
    "silence never counts": ("if silence is None or silence >= rules.offline_seconds:", "if silence is None:"),
    "never heard counts as suspect": ("if silence is None or silence", "if silence is not None and silence"),
    "a broken link counts as online": ("if not observed.connected or silence >=", "if silence >="),
    "silence is never suspect": (
        "if not observed.connected or silence >= rules.suspect_intervals * rules.interval_seconds:",
        "if not observed.connected:",
    ),
    "an old error is shown while it is silent": (
        "if observed.connected and silence is not None else observed.error",
        "if False else observed.error",
    ),
    "what is waited for is forgotten": ("and not wanted))", "))"),
    "what is there is forgotten": ("(isinstance(state, Offline) and not wanted)", "(not wanted)"),
    "a goodbye is not needed": ("gone = observed.said_goodbye and", "gone ="),
    "a stranger's goodbye is not heard": ("not observed.described or ", ""),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_seeded_defect_is_found(name: str) -> None:
    defective = mutated(phase, *MUTATIONS[name])
    with pytest.raises((AssertionError, TypeError)):
        check_all(defective)
