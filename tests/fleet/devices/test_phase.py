from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from fleet.devices import phase
from fleet.devices.liveness import Liveness
from fleet.devices.phase import ObservedDevice, device_phase
from protos.silence import Silence
from tests.support.mutation import mutated

RULES = Liveness()  # 1 s between samples, suspect after 3, offline after 15 s; with beats of 0.25 s after 3 and 7 of these
WELL, SUSPECT, GONE = (Silence(seconds, 0.25) for seconds in (0.2, 0.8, 1.8))


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


@pytest.mark.parametrize(
    ("connected", "heard", "silence", "beats", "state", "detail"),
    [
        (True, 0.2, WELL, True, "online", ""),
        (True, 0.8, SUSPECT, True, "suspect", "silent for 0.8 s"),
        (True, 1.8, GONE, True, "suspect", "silent for 1.8 s"),  # its connection ends at this moment
        (True, 30.0, WELL, True, "online", ""),  # it was we who stood still
        (False, 0.2, None, True, "suspect", "refused"),
        (False, 1.8, None, True, "offline", "refused"),
        (True, None, WELL, True, "offline", "refused"),
        # Behind a gateway: this beats, the device does not.
        (True, 0.2, WELL, False, "online", ""),
        (True, 0.2, SUSPECT, False, "suspect", "silent for 0.8 s"),
        (True, 3.0, WELL, False, "suspect", "no telemetry for 3 s"),
        (True, 15.0, WELL, False, "offline", "no telemetry for 15 s"),
        (False, 1.8, None, False, "suspect", "refused"),
    ],
)
def test_beats_tell_sooner(connected: bool, heard: float | None, silence: Silence | None, beats: bool, state: str, detail: str) -> None:
    heard_at = None if heard is None else 100.0 - heard
    observed = ObservedDevice(connected, heard_at, "refused", silence=silence, beats=beats)
    found = device_phase(observed, RULES, 100.0, wanted=True).state
    assert (found.name, found.detail) == (state, detail)


def test_one_that_is_started_anew_is_not_forgotten_for_its_goodbye() -> None:
    observed = ObservedDevice(False, 100.0, "refused", said_goodbye=True, beats=True)
    assert [device_phase(observed, RULES, now, wanted=False).forget for now in (102.0, 114.9, 115.0)] == [False, False, True]


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
    "silence never counts": ("if silence >= (", "if silence < 0 * ("),
    "never heard counts as suspect": ("        return Offline(observed.error)", "        return Suspect(observed.error)"),
    "a broken link counts as online": ("if not observed.connected or silence >=", "if silence >="),
    "silence is never suspect": (
        "if not observed.connected or silence >= rules.suspect_intervals * rules.interval_seconds:",
        "if not observed.connected:",
    ),
    "an old error is shown while it is silent": ("if observed.connected else observed.error", "if False else observed.error"),
    "what is waited for is forgotten": ("and not wanted))", "))"),
    "what is there is forgotten": ("(isinstance(state, Offline) and over and not wanted)", "(not wanted)"),
    "a goodbye is not needed": ("gone = observed.said_goodbye and", "gone ="),
    "a stranger's goodbye is not heard": ("not observed.described or ", ""),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_seeded_defect_is_found(name: str) -> None:
    defective = mutated(phase, *MUTATIONS[name])
    with pytest.raises((AssertionError, TypeError)):
        check_all(defective)


def machine_for(module: ModuleType) -> type[RuleBasedStateMachine]:
    """A device that is believed by what arrives of it: samples late, twice or never, links that break, goodbyes that are taken back."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.now = 1000.0
            self.connected = self.described = self.said_goodbye = self.wanted = False
            self.heard_at: float | None = None
            self.error = "it has not answered yet"
            self.on_the_way = 0

        def phase(self) -> Any:
            observed = module.ObservedDevice(self.connected, self.heard_at, self.error, self.described, self.said_goodbye)
            return module.device_phase(observed, RULES, self.now, wanted=self.wanted)

        @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 20.0]))
        def time_passes(self, seconds: float) -> None:
            self.now += seconds

        @rule(heard=st.booleans())
        def it_connects(self, heard: bool) -> None:
            """The first sample is asked for at once."""
            self.connected = self.described = True
            if heard:
                self.heard_at = self.now

        @rule(rules_it_out=st.booleans())
        def its_link_breaks(self, rules_it_out: bool) -> None:
            """`rules_it_out`: what it said last, such as another protocol, means that it cannot be used."""
            self.connected, self.error, self.on_the_way = False, "nobody listens", 0
            if rules_it_out:
                self.heard_at = None

        @precondition(lambda self: self.connected)
        @rule(times=st.integers(1, 3))
        def it_sends(self, times: int) -> None:
            self.on_the_way += times

        @precondition(lambda self: self.on_the_way > 0)
        @rule(dropped=st.booleans())
        def a_sample_arrives(self, dropped: bool) -> None:
            self.on_the_way -= 1
            if not dropped:
                self.heard_at = self.now

        @rule(taken_back=st.booleans())
        def a_goodbye(self, taken_back: bool) -> None:
            self.said_goodbye = not taken_back

        @rule(wanted=st.booleans())
        def a_deployment_needs_it(self, wanted: bool) -> None:
            self.wanted = wanted

        @invariant()
        def what_is_believed_follows_from_what_arrived(self) -> None:
            found, silence = self.phase(), None if self.heard_at is None else self.now - self.heard_at
            name = found.state.name
            if name == "online":
                assert self.connected, "online without a link"
                assert silence is not None, "online though it was never heard"
                assert silence < 3.0, "online though it is silent"
            else:
                assert found.state.detail, "a state that is not well has its reason"
                assert not (self.connected and silence is not None and silence < 3.0), "not online though it is heard"
            assert (name == "offline") == (silence is None or silence >= 15.0)
            if found.forget:
                assert self.said_goodbye, "forgotten without a goodbye"
                assert not self.described or (name == "offline" and not self.wanted), "forgotten though it is there, or waited for"

        def teardown(self) -> None:
            """Whatever happened: one that connects and is heard is online, and one that left and that nobody needs is forgotten."""
            self.connected, self.described, self.heard_at = True, True, self.now
            assert self.phase().state.name == "online"
            self.connected, self.said_goodbye, self.wanted, self.now = False, True, False, self.now + 20.0
            assert self.phase().forget
            self.wanted = True
            assert not self.phase().forget

    return Machine


STEPS = settings(suppress_health_check=list(HealthCheck))


@pytest.mark.hypothesis
def test_whatever_is_dropped_repeated_or_late() -> None:
    run_state_machine_as_test(machine_for(phase), settings=STEPS)


# What the machine leaves to the table: words, and what is forgotten a moment sooner.
FOUND_BY_THE_TABLE_ALONE = {"an old error is shown while it is silent", "a stranger's goodbye is not heard"}


@pytest.mark.parametrize("name", sorted(MUTATIONS.keys() - FOUND_BY_THE_TABLE_ALONE))
def test_the_machine_finds_a_seeded_defect(name: str) -> None:
    module = mutated(phase, *MUTATIONS[name])
    quick = settings(STEPS, max_examples=1000, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises((AssertionError, TypeError)):
        run_state_machine_as_test(machine_for(module), settings=quick)
