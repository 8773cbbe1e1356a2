from __future__ import annotations

import signal

import pytest

from fleet.home import Home
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.processes import Glmfleet, wait_for


@pytest.mark.parametrize("command", [["generate", "hello"], ["generate", "hello", "--json"], ["deploy", "tiny"]], ids=" ".join)
def test_ctrl_c_is_one_line_and_cancels_what_runs(served: Home, coordinator: FakeCoordinator, command: list[str]) -> None:
    coordinator.hold_at = 1
    process = Glmfleet(served.path).start(*command)
    wait_for(lambda: coordinator.holding, 20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert ("taking back" in err) == (command[0] == "deploy")
    assert "Traceback" not in err
    wait_for(lambda: coordinator.closed == 1, 5)


def test_ctrl_c_in_a_chat_stops_the_answer_and_keeps_the_chat(served: Home, coordinator: FakeCoordinator) -> None:
    coordinator.hold_at = 1
    process = Glmfleet(served.path).start("chat", stdin=True)
    assert process.stdin is not None
    process.stdin.write("one\n")
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.read(3) == "Par"
    wait_for(lambda: coordinator.holding, 20)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: coordinator.closed == 1, 5)
    coordinator.hold_at = None
    out, err = process.communicate("two\n", timeout=20)
    assert process.returncode == 0
    assert out == "\nParis is\n"
    assert err.splitlines()[0] == "(stopped)"
    assert [len(request.messages) for request in coordinator.asked] == [1, 1]  # type: ignore[attr-defined]
