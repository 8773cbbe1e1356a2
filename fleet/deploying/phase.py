"""The state of a pipeline, and what to do next: a pure function of what is observed, remembered, and the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from fleet.planning.standby import GRACE_SECONDS
from protos.ids import DeviceId

# After a repair that failed: doubled each time. Sooner when what is observed has changed.
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 5.0
# After a plan that could not be made or brought about: doubled each time.
REPLAN_WAIT_SECONDS = 15.0
LONGEST_REPLAN_WAIT_SECONDS = 600.0
# While only our own link to a device has ended its ring goes on, and what it answers would be broken off. So long it is left alone.
UNBROKEN_SECONDS = 10.0


@dataclass(frozen=True)
class ObservedStage:
    """One stage's device, as it was last seen."""

    device_name: str
    connected: bool
    why_away: str = ""  # one line; "" while connected
    addresses: frozenset[str] = frozenset()  # where neighbours may reach it
    holds: bool = False  # it says that it holds this stage of this plan
    draining: bool = False  # it is to be switched off: the stage has to go elsewhere
    removed: bool = False  # it was taken out of the fleet, and does not come back


@dataclass(frozen=True)
class ObservedStandby:
    """A device that keeps stages of the pipeline. `preparing`: some that it is to keep are on their way."""

    device: DeviceId
    ready: frozenset[int] = frozenset()  # it is there, and takes over at once
    preparing: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ObservedStream:
    """The stream to the head. `broken_at`: when the ring last failed a request, or the head did not attach us; None while it stands."""

    attached: bool = False
    broken_at: float | None = None
    why: str = ""  # it is not attached, or its ring broke
    idle: bool = True  # no request is open on it


@dataclass(frozen=True)
class ObservedPipeline:
    """`replaced`: a newer generation of its deployment is being brought about, so that nothing is repaired."""

    stages: tuple[ObservedStage, ...]
    stream: ObservedStream = ObservedStream()
    replaced: bool = False
    standbys: tuple[ObservedStandby, ...] = ()
    seeking: bool = False  # a standby is being looked for

    @property
    def addresses(self) -> tuple[frozenset[str], ...] | None:
        """Where the devices of the ring may be reached now; None unless all are there."""
        return tuple(stage.addresses for stage in self.stages) if all(stage.connected for stage in self.stages) else None

    @property
    def lost(self) -> tuple[int, ...]:
        """Stages whose device is there and does not hold them."""
        return tuple(number for number, stage in enumerate(self.stages) if stage.connected and not stage.holds)

    @property
    def away(self) -> tuple[int, ...]:
        return tuple(number for number, stage in enumerate(self.stages) if not stage.connected)

    @property
    def removed(self) -> frozenset[int]:
        """Of those that are away, stages whose device nobody waits for."""
        return frozenset(number for number in self.away if self.stages[number].removed)

    @property
    def draining(self) -> tuple[int, ...]:
        """Stages that have to leave a device that is there."""
        return tuple(number for number, stage in enumerate(self.stages) if stage.connected and stage.draining)

    @property
    def broken(self) -> bool:
        """Its ring answers nothing."""
        return not self.stream.attached or self.stream.broken_at is not None


@dataclass(frozen=True)
class Failure:
    """The last `count` repairs in a row failed, the latest at `at` with `detail`, while `stages` were observed.

    A count of 0: a repair is still to come, and `detail` says what for.
    """

    detail: str
    count: int
    at: float
    stages: tuple[ObservedStage, ...] = ()


@dataclass(frozen=True)
class History:
    """What is remembered of a pipeline. `sent_addresses`: of its devices, as they were sent to their neighbours last; None: not by us.

    `stale_stream`: stages were loaded since the stream was attached; their caches are empty, whatever the head believes.
    """

    repairing: Repair | None = None
    loading: bool = False  # the repair has begun to load: what follows may find the caches empty
    failure: Failure | None = None
    sent_addresses: tuple[frozenset[str], ...] | None = None
    stale_stream: bool = False
    looked_at: float | None = None  # when its devices were asked last because the stream had failed
    away: tuple[int, ...] = ()  # stages whose devices were away at the last look
    away_since: float | None = None  # at each look since, one was, and none of them came back
    replanning: bool = False
    replan_failure: Failure | None = None  # the last, while devices are away


@dataclass(frozen=True)
class Ready:
    """It answers."""

    detail: str = ""


@dataclass(frozen=True)
class Waiting:
    """A device of it is away."""

    detail: str


@dataclass(frozen=True)
class Repairing:
    """A device lost its stage, which is being loaded again."""

    detail: str


@dataclass(frozen=True)
class Attaching:
    """All stages are there, and the stream to the head is not, or the ring behind it is down."""

    detail: str


PipelineState: TypeAlias = Ready | Waiting | Repairing | Attaching


@dataclass(frozen=True)
class Repair:
    """Load the stages again that were lost. `ring`: neighbours look for each other at old addresses, so that all are told anew."""

    stages: tuple[int, ...]
    ring: bool = False


@dataclass(frozen=True)
class Reattach:
    """Begin the stream anew, upon which the head connects the ring unless it stands."""


@dataclass(frozen=True)
class TakeOver:
    """Let standbys have these stages, each with the device that takes it; the others stay where they are."""

    moves: tuple[tuple[int, DeviceId], ...]


@dataclass(frozen=True)
class Replan:
    """Plan it anew over the devices there are: one of its own has been away for too long, left the fleet, or is to be switched off."""


@dataclass(frozen=True)
class Look:
    """Ask the devices what they hold: the stream failed, and one may have lost its stage."""


PipelineAction: TypeAlias = Repair | Reattach | TakeOver | Replan | Look


@dataclass(frozen=True)
class Phase:
    """`due`: when time alone may change what is to be done; None: it does not."""

    state: PipelineState
    actions: tuple[PipelineAction, ...] = ()
    due: float | None = None


def pipeline_phase(observed: ObservedPipeline, history: History, now: float, *, replan_after: float | None = None) -> Phase:
    """`now` and all times are of one monotonic clock, in seconds. `replan_after`: so long may a device be away; None: for ever."""
    return Phase(pipeline_state(observed, history), _actions(observed, history, now, replan_after), _due(observed, history, now))


def began(history: History, repair: Repair) -> History:
    return replace(history, repairing=repair)


def succeeded(history: History, sent_addresses: tuple[frozenset[str], ...] | None, *, loaded: bool) -> History:
    """`loaded`: anything was loaded, and not only found to be there."""
    stale = history.stale_stream or loaded
    return replace(history, repairing=None, loading=False, failure=None, sent_addresses=sent_addresses, stale_stream=stale)


def failed(history: History, detail: str, stages: tuple[ObservedStage, ...], now: float) -> History:
    """A load whose answer was lost may have been done all the same."""
    count = history.failure.count + 1 if history.failure else 1
    failure, stale = Failure(detail, count, now, stages), history.stale_stream or history.loading
    return replace(history, repairing=None, loading=False, failure=failure, stale_stream=stale)


def loading(history: History) -> History:
    """The repair begins to load."""
    return replace(history, loading=True)


def noticed(history: History, observed: ObservedPipeline, now: float) -> History:
    """A failure is of no more interest when what it was about is over, however that came."""
    if not (observed.lost or history.repairing):
        history = replace(history, failure=None)
    away = observed.away
    if not away:
        failure = history.replan_failure if observed.draining else None
        return replace(history, away=(), away_since=None, replan_failure=failure)
    # One that comes back brings hope for the others: often it was our own network that was gone.
    since = now if history.away_since is None or set(history.away) - set(away) else history.away_since
    return replace(history, away=away, away_since=since)


def reattached(history: History) -> History:
    return replace(history, stale_stream=False)


def replan_began(history: History) -> History:
    return replace(history, replanning=True)


def replan_ended(history: History) -> History:
    """Nothing came of it, and nothing stood in the way: it may be asked for again."""
    return replace(history, replanning=False)


def replan_failed(history: History, detail: str, now: float) -> History:
    count = history.replan_failure.count + 1 if history.replan_failure else 1
    return replace(history, replanning=False, replan_failure=Failure(detail, count, now))


def looked(history: History, now: float) -> History:
    return replace(history, looked_at=now)


def pipeline_state(observed: ObservedPipeline, history: History) -> PipelineState:
    away = next((stage for stage in observed.stages if not stage.connected), None)
    if away is not None:
        why = "; ".join(stage.why_away for stage in observed.stages if not stage.connected)
        failure = history.replan_failure
        return Waiting(why if failure is None else f"{why}; it could not be moved to other devices: {failure.detail}")
    repairing = history.repairing is not None and bool(history.repairing.stages)
    if repairing or history.stale_stream or observed.lost:
        # The head may not know yet that its ring is broken: what is asked now would end with it.
        return Repairing(history.failure.detail if history.failure else "a device lost its stage, which is being loaded again")
    if not observed.stream.attached:
        return Attaching(observed.stream.why or "attaching")
    if observed.stream.broken_at is not None:
        return Attaching(f"its ring broke, and is being connected again: {observed.stream.why}")
    return Ready()


def _actions(observed: ObservedPipeline, history: History, now: float, replan_after: float | None) -> tuple[PipelineAction, ...]:
    if history.repairing is not None or history.replanning or observed.replaced:
        return ()
    if (taken := _take_over(observed, history, now)) is not None:
        return (taken,)
    if _must_move(observed, history, now, replan_after) or _must_leave(observed, history, now):
        return (Replan(),)
    if history.stale_stream:
        return (Reattach(),)
    lost, moved = observed.lost, _moved(observed, history)
    if lost or moved:
        return (Repair(lost, ring=moved),) if _may_try(observed, history, now) else ()
    broken_at = observed.stream.broken_at
    if broken_at is None:
        return ()
    unseen = history.looked_at is None or history.looked_at < broken_at
    look: tuple[PipelineAction, ...] = (Look(),) if unseen else ()
    # The head connects the ring when it attaches us. Requests that are open on the stream were asked after it broke, and will show.
    connects = observed.stream.attached and observed.stream.idle and not observed.away
    return (*look, Reattach()) if connects else look


def _moved(observed: ObservedPipeline, history: History) -> bool:
    """The ring does not stand, and a device may be elsewhere than its neighbour looks for it."""
    addresses = observed.addresses
    return observed.stream.broken_at is not None and addresses is not None and addresses != history.sent_addresses


def _take_over(observed: ObservedPipeline, history: History, now: float) -> TakeOver | None:
    """All that have to leave; where there are too few standbys for them all, those whose device is away, else one after the other."""
    if not _may_move(history, now) or now < _left_at(observed, history):
        return None
    away, draining = observed.away, observed.draining
    for leaving in ({*away, *draining}, set(away), *(() if away else ({stage} for stage in draining))):
        if leaving and (moves := _match(sorted(leaving), observed.standbys)) is not None:
            return TakeOver(moves)
    return None


def _left_at(observed: ObservedPipeline, history: History) -> float:
    """When devices that are away are waited for no longer, where a standby stands in for them."""
    if history.away_since is None or observed.removed.issuperset(observed.away):
        return 0.0
    return history.away_since + (GRACE_SECONDS if observed.broken else UNBROKEN_SECONDS)


def _match(stages: Sequence[int], standbys: Sequence[ObservedStandby]) -> tuple[tuple[int, DeviceId], ...] | None:
    """A device of its own for each stage."""
    if not stages:
        return ()
    for standby in standbys:
        if stages[0] in standby.ready:
            rest = _match(stages[1:], [other for other in standbys if other is not standby])
            if rest is not None:
                return ((stages[0], standby.device), *rest)
    return None


def _must_move(observed: ObservedPipeline, history: History, now: float, replan_after: float | None) -> bool:
    """Whoever took a device out of the fleet has decided that what it held moves, whatever the deployment's policy of waiting is."""
    if not observed.removed and (replan_after is None or history.away_since is None or now < history.away_since + replan_after):
        return False
    return _may_move(history, now)


def _must_leave(observed: ObservedPipeline, history: History, now: float) -> bool:
    """No standby will have what is to leave a device that is switched off soon."""
    covered = {stage for standby in observed.standbys for stage in standby.ready | standby.preparing}
    return bool(set(observed.draining) - covered) and not (observed.away or observed.seeking) and _may_move(history, now)


def _may_move(history: History, now: float) -> bool:
    failure = history.replan_failure
    if failure is None:
        return True
    return now >= failure.at + min(REPLAN_WAIT_SECONDS * 2.0 ** min(failure.count - 1, 10), LONGEST_REPLAN_WAIT_SECONDS)


def _due(observed: ObservedPipeline, history: History, now: float) -> float | None:
    """The keeper looks again every few seconds by itself; a pause of an answer must not wait for that."""
    covered = {stage for standby in observed.standbys for stage in standby.ready}
    left_at = _left_at(observed, history)
    return left_at if covered.intersection(observed.away) and now < left_at else None


def _may_try(observed: ObservedPipeline, history: History, now: float) -> bool:
    failure = history.failure
    if failure is None or failure.stages != observed.stages:
        return True
    # The exponent is bounded: a float overflows after 1,000 failures.
    wait = min(FIRST_WAIT_SECONDS * 2.0 ** min(failure.count - 1, 10), LONGEST_WAIT_SECONDS)
    return now >= failure.at + wait
