from __future__ import annotations

import itertools
from types import ModuleType

import pytest

from fleet.deploying import deployment_phase as module
from fleet.deploying.deployment_phase import AllReady, Degraded, Deploying, Gone, Untouched, WantedDeployment, deployment_phase
from fleet.deploying.desired import new_desired
from fleet.deploying.phase import PipelineState, Ready, Waiting
from fleet.deploying.reconcile import Unload
from protos.ids import DeviceId, PipelineId
from tests.fleet.deploying.test_reconcile import held, plan
from tests.support.mutation import mutated

PAIR = new_desired("chat", 3, (plan(("a",)), plan(("b",))), None)
ALONE = new_desired("chat", 3, (plan(("a",)),), None)
LAME = Waiting("dev-2 is offline")
A, B = DeviceId("a"), DeviceId("b")
OLD = held(new_desired("chat", 2, (plan(("a",)),), None), 0)
HELD = {A: (held(PAIR, 0, 0), OLD), B: (held(PAIR, 0, 1),)}


@pytest.mark.parametrize(
    ("wanted", "pipelines", "state"),
    [
        (WantedDeployment("chat", 3, ALONE), (Ready(),), AllReady()),
        (WantedDeployment("chat", 3, ALONE), (LAME,), Degraded("dev-2 is offline")),
        (WantedDeployment("chat", 3, PAIR), (Ready(), LAME), Degraded("1 of 2 pipelines answer; chat-3.1: dev-2 is offline")),
        (WantedDeployment("chat", 3, PAIR, coming=4), (), Deploying("generation 3 answers while generation 4 is sent")),
        (WantedDeployment("chat", 3, PAIR, coming=3), (), Deploying()),
        (WantedDeployment("chat", 1, coming=1), (), Deploying()),
        (WantedDeployment("chat", 3, unreadable=True), (), Untouched()),
        (WantedDeployment("chat", 4), (), Gone()),
    ],
)
def test_each_state(wanted: WantedDeployment, pipelines: tuple[PipelineState, ...], state: object) -> None:
    assert deployment_phase(wanted, pipelines, {}).state == state


def check_all(checked: ModuleType) -> None:
    """Every combination of what is wanted: what goes is what nothing wants, and only where this coordinator may say so."""
    for generation, desired, coming, unreadable in itertools.product((0, 3, 4), (None, PAIR), (0, 5), (False, True)):
        wanted = checked.WantedDeployment("chat", generation, desired, coming, unreadable)
        found = checked.deployment_phase(wanted, (Ready(), Ready()), HELD)
        pipelines = [unload.pipeline_id for unload in found.unloads]
        if coming or unreadable or not generation:
            assert pipelines == [], "a stage goes that must be left alone"
        elif desired is None:
            assert sorted(pipelines) == ["chat-2", "chat-3", "chat-3.1"], "a stage that nobody wants stays"
        else:
            assert pipelines == ["chat-2"], "not what the plan leaves over goes"
        assert all(unload.generation == generation for unload in found.unloads)
        assert (type(found.state).__name__ == "AllReady") == (desired is not None and not coming and not unreadable)
    lame = checked.deployment_phase(checked.WantedDeployment("chat", 3, PAIR), (Ready(), LAME), {}).state
    assert type(lame).__name__ == "Degraded"


def test_what_goes() -> None:
    check_all(module)
    assert deployment_phase(WantedDeployment("chat", 3, PAIR), (LAME, LAME), HELD).unloads == (Unload(A, "chat", 3, PipelineId("chat-2")),)


MUTATIONS = {
    "unloads beside a deploy": ("isinstance(state, Deploying | Untouched)", "isinstance(state, Untouched)"),
    "unloads what cannot be read": ("isinstance(state, Deploying | Untouched)", "isinstance(state, Deploying)"),
    "keeps what nobody wants": ("if wanted.desired else ()", "if wanted.desired else PAIR"),
    "unloads what is wanted": ("keep=keep", "keep=()"),
    "unreadable counts as gone": ("    if wanted.unreadable:", "    if False:"),
    "gone counts as ready": ("        return Gone()", "        return AllReady()"),
    "lame counts as ready": ("    if not lame:", "    if True:"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_seeded_defect_is_found(name: str) -> None:
    wrong = mutated(module, *MUTATIONS[name])
    with pytest.raises((AssertionError, NameError)):
        check_all(wrong)
