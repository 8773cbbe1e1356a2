"""The state of a pipeline, by a machine that drops, repeats and reorders what is observed; it finds a seeded defect in each transition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from fleet.deploying import phase
from protos.ids import DeviceId
from tests.support.mutation import mutated
from tests.support.phase_defects import MOVES, MUTATIONS, RARE, STANDBYS


@dataclass
class Board:
    """The truth of one device."""

    address: str
    connected: bool = True
    holds: bool = True
    loads: int = 1  # of its stage: each gives it an empty cache
    told: tuple[frozenset[str], ...] = ()  # where its neighbours are, as it was told


def machine_for(module: ModuleType, replan_after: float | None = None, *, standby: bool = False) -> type[RuleBasedStateMachine]:
    """A pipeline of two devices, kept up by what `module` decides from observations that may be old, repeated or lost. With `standby`, a
    third keeps both stages."""
    patience = math.inf if replan_after is None else replan_after

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.now = 100.0
            self.boards = [Board("a:1"), Board("b:1")]
            self.draining: set[int] = set()
            for board in self.boards:
                board.told = self.addresses()
            self.attached_to: tuple[int, ...] | None = self.loads()  # the loads that the stream's ring was built over
            self.broken_at: float | None = None
            self.history = module.History(sent_addresses=self.addresses())
            self.seen: list[Any] = [self.look(number) for number in range(2)]  # what the coordinator believes
            self.delayed: list[tuple[int, Any]] = []  # observations on their way
            self.doing: Any = None
            self.lasting: Any = None  # a failure since which all stages have been seen to be there
            self.known_told = self.addresses()  # as the coordinator has heard that they were told
            self.looked_after: float | None = None  # the break for which devices were asked last
            self.away_since: float | None = None  # a board was away at every look since, and none came back
            self.away: set[int] = set()
            self.moving = False
            self.tries = 0  # that failed while a board was away
            self.moved_at = -1000.0  # when the last move failed
            self.ready = frozenset({0, 1}) if standby else frozenset()  # what is kept there, as the coordinator has heard
            self.taking: Any = None

        def addresses(self) -> tuple[frozenset[str], ...]:
            return tuple(frozenset({board.address}) for board in self.boards)

        def loads(self) -> tuple[int, ...]:
            return tuple(board.loads for board in self.boards)

        def look(self, number: int) -> Any:
            board = self.boards[number]
            if not board.connected:
                return module.ObservedStage(f"dev-{number}", connected=False, why_away="away")
            at = frozenset({board.address})
            return module.ObservedStage(f"dev-{number}", True, addresses=at, holds=board.holds, draining=number in self.draining)

        def observe(self) -> Any:
            attached = self.attached_to is not None
            standbys = (module.ObservedStandby(DeviceId("spare"), self.ready),) if standby else ()
            stream = module.ObservedStream(attached, self.broken_at, "" if attached else "no")
            return module.ObservedPipeline(tuple(self.seen), stream, standbys=standbys)

        def phase(self) -> Any:
            return module.pipeline_phase(self.observe(), self.history, self.now, replan_after=replan_after)

        @rule(number=st.integers(0, 1), noticed=st.booleans(), asked=st.booleans())
        def a_board_loses_its_stage(self, number: int, noticed: bool, asked: bool) -> None:
            """It restarts, or drops the stage and stays connected; then nobody tells. `asked`: a request fails by it."""
            board = self.boards[number]
            board.holds, board.connected = False, True
            if asked or number == 0:
                self.break_ring(number)
            if noticed:
                self.seen[number] = self.look(number)

        @rule(number=st.integers(0, 1), moved=st.booleans())
        def a_board_comes_back(self, number: int, moved: bool) -> None:
            board = self.boards[number]
            if not board.connected:
                board.connected = True
                if moved:
                    board.address += "'"

        @rule(number=st.integers(0, 1))
        def a_link_breaks(self, number: int) -> None:
            self.boards[number].connected = False
            self.seen[number] = self.look(number)  # its own connection tells at once
            self.break_ring(number)

        @precondition(lambda self: standby)
        @rule()
        def only_our_own_link_ends(self) -> None:
            """Not that of its neighbours: the ring goes on."""
            self.boards[1].connected = False
            self.seen[1] = self.look(1)

        def break_ring(self, number: int) -> None:
            """The head ends the stream where it is the one that fails, else it fails the next request."""
            if number == 0:
                self.attached_to = None
            self.now += 0.001
            self.broken_at = self.now

        @rule(number=st.integers(0, 1))
        def an_observation_sets_out(self, number: int) -> None:
            self.delayed.append((number, self.look(number)))

        @precondition(lambda self: self.delayed)
        @rule(data=st.data(), again=st.booleans())
        def an_observation_arrives(self, data: st.DataObject, again: bool) -> None:
            """In any order, perhaps twice; one of a device whose connection has ended since does not count."""
            index = data.draw(st.integers(0, len(self.delayed) - 1))
            number, stage = self.delayed[index] if again else self.delayed.pop(index)
            if self.boards[number].connected and stage.connected:
                self.seen[number] = stage

        @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
        def time_passes(self, seconds: float) -> None:
            self.now += seconds

        @rule()
        def the_stream_attaches(self) -> None:
            if self.attached_to is not None or not self.boards[0].connected:
                return
            if all(board.connected and board.holds and board.told == self.addresses() for board in self.boards):
                self.attached_to, self.broken_at = self.loads(), None
            else:
                self.now += 0.001
                self.broken_at = self.now

        @rule()
        def the_keeper_looks(self) -> None:
            self.history = module.noticed(self.history, self.observe(), self.now)
            if self.doing is None and not self.observe().lost and self.history.failure is not None:
                self.lasting = self.history.failure
            actions = self.phase().actions
            failure, lost = self.history.failure, any(stage.connected and not stage.holds for stage in self.seen)
            away = {number for number, stage in enumerate(self.seen) if not stage.connected}
            leaving = {number for number, stage in enumerate(self.seen) if stage.draining}
            self.tries = self.tries if away or leaving else 0
            began = self.now if self.away_since is None or self.away - away else self.away_since
            self.away_since, self.away = began if away else None, away
            rest = min(15.0 * 2 ** max(self.tries - 1, 0), 600.0) if self.tries else 0.0
            rested = self.now - self.moved_at >= rest
            overdue = self.away_since is not None and self.now - self.away_since >= patience and rested
            broken = self.attached_to is None or self.broken_at is not None
            waits = 0.0 if self.away_since is None else self.away_since + (0.5 if broken else 10.0) - self.now
            covered = len(away) == 1 and away <= self.ready if away else bool(leaving & self.ready)
            kinds, idle = [type(action).__name__ for action in actions], self.doing is None and not self.moving and self.taking is None
            if covered and waits <= 0.0 and rested and idle:
                assert kinds == ["TakeOver"], "a standby is ready, and the stage is left where it is"
            elif overdue and idle:
                assert kinds == ["Replan"], "a device is away for long, and nothing is done"
            elif leaving and not (away or covered) and rested and idle:
                assert kinds == ["Replan"], "a device is to be switched off, and nothing is done"
            if covered and away and waits > 0.0:
                due = self.phase().due
                assert due is not None, "nobody looks again when it is time"
                assert abs(due - self.now - waits) < 1e-6, "it is looked again at the wrong time"
            if (
                lost
                and not (overdue or self.moving or self.taking)
                and failure is not None
                and failure.stages != tuple(self.seen)
                and self.doing is None
            ):
                assert actions, "something has changed, and nothing is tried"
            for action in actions:
                kind = type(action).__name__
                if kind == "Reattach":
                    self.attached_to = None
                    self.history = module.reattached(self.history)
                elif kind == "Look":
                    assert self.looked_after != self.broken_at, "devices are asked again and again"
                    self.looked_after = self.broken_at
                    self.history = module.looked(self.history, self.now)
                    for number in range(2):
                        self.seen[number] = self.look(number)
                elif kind == "TakeOver":
                    assert idle, "two moves at once"
                    assert waits <= 0.0, "a device that may be back in a moment is left"
                    assert {number for number, _ in action.moves} <= (away | leaving) & self.ready, (
                        "a stage is moved that need not, or cannot"
                    )
                    self.taking = action
                    self.history = module.replan_began(self.history)
                elif kind == "Replan":
                    assert not self.moving, "two moves at once"
                    assert self.taking is None, "two moves at once"
                    assert overdue or (leaving and not away), "moved too soon"
                    self.moving = True
                    self.history = module.replan_began(self.history)
                else:
                    assert self.doing is None, "two repairs at once"
                    assert action.stages or action.ring, "a repair of nothing"
                    assert all(self.seen[number].connected for number in action.stages), "a load on a device that is away"
                    assert not any(self.seen[number].holds for number in action.stages), "a load of what is there"
                    assert not action.ring or self.known_told != self.observe().addresses, "neighbours are told what they know"
                    if failure is not None and failure.stages == tuple(self.seen) and failure.count > 0:
                        assert self.now - failure.at >= 0.5, "a repair that failed is tried again at once"
                    self.doing = action
                    self.history = module.began(self.history, action)
                    assert self.lasting is None or failure is not self.lasting, "an old failure is taken for a new one"

        @precondition(lambda self: standby)
        @rule(number=st.integers(0, 1))
        def a_board_is_to_be_switched_off_or_kept(self, number: int) -> None:
            self.draining ^= {number}
            if self.boards[number].connected:
                self.seen[number] = self.look(number)

        @precondition(lambda self: standby)
        @rule()
        def the_spare_is_made_ready(self) -> None:
            self.ready = frozenset({0, 1})

        @precondition(lambda self: standby)
        @rule()
        def the_spare_is_lost(self) -> None:
            self.ready = frozenset()

        @precondition(lambda self: self.taking is not None)
        @rule(stored=st.booleans())
        def a_take_over_ends(self, stored: bool) -> None:
            """Another pipeline begins where it is stored: its devices hold their stages under another epoch, or beside a ring."""
            moves, self.taking = self.taking.moves, None
            if not stored:
                self.moved_at, self.tries = self.now, self.tries + 1
                self.history = module.replan_failed(self.history, "no disk", self.now)
                return
            for number, _ in moves:
                self.boards[number] = Board(f"spare:{self.now}")
                self.draining.discard(number)
            for board in self.boards:
                board.holds, board.told = False, ()
            self.attached_to, self.broken_at, self.ready = None, None, frozenset()
            self.history = module.History(failure=module.Failure("a standby takes over", 0, self.now))
            self.seen = [self.look(number) for number in range(2)]
            self.delayed.clear()
            self.lasting = self.looked_after = self.away_since = None
            self.known_told, self.away, self.tries, self.moved_at = (), set(), 0, -1000.0

        @precondition(lambda self: self.moving)
        @rule()
        def a_move_finds_no_room(self) -> None:
            """One that succeeds ends this pipeline, and another begins."""
            self.moving, self.moved_at, self.tries = False, self.now, self.tries + 1
            self.history = module.replan_failed(self.history, "no room", self.now)

        @rule(told=st.booleans())
        def a_repair_is_quick(self, told: bool) -> None:
            self.the_keeper_looks()
            if self.doing is not None:
                self.a_repair_ends(done=True, told=told)

        @precondition(lambda self: self.doing is not None)
        @rule(done=st.booleans(), told=st.booleans(), asked=st.booleans())
        def a_repair_ends(self, done: bool, told: bool, asked: bool = True) -> None:
            """`done`: the stages were loaded; `told`: and the answer came; `asked`: the devices said afterwards what they hold."""
            before, repair = tuple(self.seen), self.doing
            addresses, self.doing = self.observe().addresses, None
            loads = self.loads()
            if done or told:
                self.history = module.loading(self.history)
            if done or told:
                everywhere = self.addresses()
                for board in self.boards:
                    if board.connected and (not board.holds or board.told != everywhere):
                        if not board.holds or repair.ring:
                            board.loads += 1
                        board.holds, board.told = True, everywhere
            if told and all(board.connected for board in self.boards):
                for number in range(2):
                    self.seen[number] = self.look(number)
                self.history = module.succeeded(self.history, addresses, loaded=self.loads() != loads)
                self.known_told = addresses
            else:
                self.history = module.failed(self.history, "it failed", before, self.now)
                for number, board in enumerate(self.boards):
                    if asked and board.connected and self.seen[number].connected:
                        self.seen[number] = self.look(number)

        @invariant()
        def what_is_ready_answers(self) -> None:
            """As far as the coordinator can know: never ready against what it has seen, or on a ring built before a load it made."""
            if type(self.phase().state).__name__ != "Ready":
                return
            assert all(stage.connected and stage.holds for stage in self.seen), "ready though a stage is seen to be missing"
            assert self.attached_to is not None, "ready without a stream"
            assert self.broken_at is None, "ready though the ring has failed a request"
            known_loads = all(now == then for now, then in zip(self.loads(), self.attached_to, strict=True))
            restarted = any(not board.holds for board in self.boards)  # by itself: nobody has told yet
            ring_only = self.history.repairing is not None and not self.history.repairing.stages
            assert known_loads or restarted or ring_only, "ready on a ring whose caches are gone"

        @invariant()
        def a_state_has_its_reason(self) -> None:
            state = self.phase().state
            assert bool(state.detail) == (type(state).__name__ != "Ready")

        def teardown(self) -> None:
            """When faults end it is ready after a few rounds: nothing is forgotten. A device describes itself when it connects, later only
            when it is asked."""
            for number, board in enumerate(self.boards):
                board.connected = True
                if not self.seen[number].connected or self.seen[number].addresses != {board.address}:
                    self.seen[number] = self.look(number)
            self.delayed.clear()
            self.draining.clear()
            self.seen = [self.look(number) if self.seen[number].draining else self.seen[number] for number in range(2)]
            if self.taking is not None:
                self.a_take_over_ends(stored=True)
            if self.moving:
                self.a_move_finds_no_room()
            for _ in range(20):
                if self.doing is not None:
                    self.a_repair_ends(done=True, told=True)
                self.the_stream_attaches()
                if self.attached_to is not None and not all(board.holds for board in self.boards):
                    self.break_ring(1)  # the next request
                self.the_keeper_looks()
                self.now += 10.0
            assert type(self.phase().state).__name__ == "Ready", f"it never came up again: {self.phase()}"
            assert self.phase().actions == ()

    return Machine


STEPS = settings(stateful_step_count=40, suppress_health_check=list(HealthCheck))


@pytest.mark.hypothesis
def test_whatever_is_dropped_repeated_or_reordered() -> None:
    run_state_machine_as_test(machine_for(phase), settings=STEPS)
    run_state_machine_as_test(machine_for(phase, replan_after=15.0), settings=STEPS)
    run_state_machine_as_test(machine_for(phase, replan_after=15.0, standby=True), settings=STEPS)


SEEDED = [pytest.param(name, marks=pytest.mark.long if name in {*RARE, *STANDBYS} else ()) for name in (*MUTATIONS, *MOVES, *STANDBYS)]


@pytest.mark.parametrize("name", SEEDED)
def test_the_machine_finds_a_seeded_defect(name: str) -> None:
    # The shortest way to the defect is of no interest.
    first = settings(STEPS, max_examples=2000, phases=[hypothesis.Phase.generate], report_multiple_bugs=False)
    if name in STANDBYS:
        defective = machine_for(mutated(phase, *STANDBYS[name]), replan_after=15.0, standby=True)
    elif name in MOVES:
        defective = machine_for(mutated(phase, *MOVES[name]), replan_after=15.0)
    else:
        defective = machine_for(mutated(phase, *MUTATIONS[name]))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(defective, settings=first)
