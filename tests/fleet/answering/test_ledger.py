from __future__ import annotations

import itertools

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fleet.answering.ledger import MOST_ATTEMPTS, MOST_TRIES, Accepted, Ended, Ledger, LedgerEntry, Recovering, Running
from fleet.answering.views import GenerateRequest
from protos.errors import Busy, Corrupt, NotFound, Unavailable
from protos.ids import PipelineId

ONE, TWO = PipelineId("chat-1"), PipelineId("chat-1.1")


def ledger(**limits: int) -> Ledger:
    clock, numbers = itertools.count(100), itertools.count(1)
    return Ledger(now=lambda: float(next(clock)), new_id=lambda: f"r{next(numbers)}", **limits)


def test_a_request_s_life() -> None:
    kept = ledger()
    entry = kept.accept(GenerateRequest(model="chat", prompt="hi", timeout_seconds=30.0))
    assert (entry.state, entry.deadline) == (Accepted(), 130.0)
    entry.begin("chat", ONE, (1, 2, 3))
    assert entry.state == Running(ONE)
    assert entry.fail(Unavailable("dev-1: gone"))
    entry.begin("chat", TWO, (1, 2, 3))
    entry.give((7, 8))
    [view] = kept.views()
    assert (view.state, view.pipeline_id, view.attempts, view.prompt_tokens, view.completion_tokens) == ("running", TWO, 2, 3, 2)
    kept.end(entry, "stop")
    [view] = kept.views()
    assert (view.state, view.finish_reason, view.ended_at, view.completion_tokens) == ("ended", "stop", 103.0, 2)
    assert (view.accepted_at, view.began_at, view.first_token_at) == (100.0, 101.0, 102.0)
    assert [attempt.error for attempt in entry.attempts] == ["dev-1: gone", ""]
    assert kept.open_requests == 0


def test_what_was_asked_and_answered_is_not_kept() -> None:
    kept = ledger()
    entry = kept.accept(GenerateRequest(prompt="a secret", text=None))
    entry.begin("chat", ONE, (1, 2))
    entry.give((3,))
    kept.end(entry, "cancelled")
    assert "secret" not in repr(entry)
    assert (entry.prompt_ids, entry.tokens, entry.completion_tokens) == ((), [], 1)


@pytest.mark.parametrize(
    ("given", "error", "again"),
    [
        ((), Unavailable("gone"), True),
        ((), Busy("the queue is full"), True),
        ((), Corrupt("a layer is wrong"), False),  # it will be no better elsewhere
        ((5,), Unavailable("gone"), True),  # the next attempt is told what the client has
        ((5,), Corrupt("a layer is wrong"), False),
    ],
)
def test_what_may_be_tried_again(given: tuple[int, ...], error: Exception, again: bool) -> None:
    entry = ledger().accept(GenerateRequest())
    entry.begin("chat", ONE, (1,))
    entry.give(given)
    assert entry.fail(error) is again  # type: ignore[arg-type]
    assert entry.tried == {ONE}


@pytest.mark.parametrize(("ran", "most", "state"), [(False, MOST_TRIES, Accepted()), (True, MOST_ATTEMPTS, Recovering())])
def test_attempts_are_bounded(ran: bool, most: int, state: object) -> None:
    entry = ledger().accept(GenerateRequest())
    entry.ran = ran
    for number in range(1, most + 1):
        entry.begin("chat", PipelineId(f"chat-{number}"), (1,))
        assert entry.fail(Unavailable("gone")) is (number < most)
        assert entry.state == state


def test_what_nobody_wants_any_more_is_not_tried_again() -> None:
    entry = ledger().accept(GenerateRequest())
    entry.begin("chat", ONE, (1,))
    entry.ran = entry.unwanted = True
    assert not entry.fail(Unavailable("gone"))


def test_it_is_bounded() -> None:
    kept = ledger(open_requests=2, ended_requests=3)
    first, _ = kept.accept(GenerateRequest()), kept.accept(GenerateRequest())
    with pytest.raises(Busy, match="2 requests are open") as refused:
        kept.accept(GenerateRequest())
    assert refused.value.retry_after_seconds > 0
    kept.end(first, "stop")
    for _ in range(10):
        kept.end(kept.accept(GenerateRequest()), "length")
    assert [view.request_id for view in kept.views()] == ["r2", "r12", "r11", "r10"]


def test_an_ended_request_is_not_found_and_the_first_end_counts() -> None:
    kept = ledger()
    entry = kept.accept(GenerateRequest())
    assert kept.find("r1") is entry
    kept.end(entry, "error", "dev-1: gone")
    kept.end(entry, "cancelled")
    assert entry.state == Ended("error", 101.0, "dev-1: gone")
    with pytest.raises(NotFound, match="no request is open with the id 'r1'"):
        kept.find("r1")
    with pytest.raises(NotFound, match="''"):
        kept.find("")
    for _ in range(9):
        kept.accept(GenerateRequest())
    assert kept.find("r10").request_id == "r10"
    assert kept.find("r3").request_id == "r3"
    with pytest.raises(NotFound, match="9 open requests begin with 'r'"):
        kept.find("r")
    with pytest.raises(AssertionError):
        entry.give((1,))


class Machine(RuleBasedStateMachine):
    """Whatever clients and pipelines do, each request is open or ended, once, and counts add up."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = ledger(open_requests=4, ended_requests=5)
        self.open: list[LedgerEntry] = []
        self.ended = 0

    @rule()
    def accept(self) -> None:
        try:
            self.open.append(self.ledger.accept(GenerateRequest(prompt="hi")))
        except Busy:
            assert len(self.open) == 4

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=st.integers(0, 3))
    def work(self, data: st.DataObject, tokens: int) -> None:
        entry = data.draw(st.sampled_from(self.open))
        if isinstance(entry.state, Accepted | Recovering):
            entry.begin("chat", PipelineId(f"chat-{len(entry.attempts)}"), (1, 2))
        entry.give(range(tokens))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.open))
        entry.ran = data.draw(st.booleans())
        entry.fail(Unavailable("gone"))
        assert isinstance(entry.state, Recovering if entry.ran else Accepted)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), twice=st.booleans())
    def end(self, data: st.DataObject, twice: bool) -> None:
        entry = data.draw(st.sampled_from(self.open))
        for reason in ("stop", "cancelled")[: 1 + twice]:
            self.ledger.end(entry, reason)  # type: ignore[arg-type]
        self.open.remove(entry)
        self.ended += 1

    @invariant()
    def counts_add_up(self) -> None:
        views = self.ledger.views()
        assert self.ledger.open_requests == len(self.open) == sum(view.state != "ended" for view in views)
        assert len(views) == len(self.open) + min(self.ended, 5)
        assert all((view.ended_at is None) == (view.state != "ended") for view in views)
        assert all((view.state == "running") <= bool(view.pipeline_id) for view in views)


TestMachine = Machine.TestCase


def test_it_recovers_until_a_token_comes() -> None:
    """A ring that was cut is asked again and again; the attempt alone is no recovery."""
    ledger = Ledger(now=lambda: 0.0)
    entry = ledger.accept(GenerateRequest(prompt="hi"))
    entry.begin("prod", PipelineId("prod-1"), [1])
    entry.ran = True
    entry.give([5])
    assert entry.view.state == "running"
    assert entry.fail(Unavailable("cut"))
    for _ in range(2):
        assert entry.view.state == "recovering"
        entry.begin("prod", PipelineId("prod-1"), [1])
        assert entry.view.state == "recovering"
        assert entry.fail(Unavailable("cut"))
    entry.begin("prod", PipelineId("prod-1"), [1])
    entry.give([6])
    assert entry.view.state == "running"
