"""The state of a pipeline, and what to do next: a pure function of what is observed, remembered, and the time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

# After a repair that failed: doubled each time. Sooner when what is observed has changed.
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 5.0
# After a plan that could not be made or brought about: doubled each time.
REPLAN_WAIT_SECONDS = 15.0
LONGEST_REPLAN_WAIT_SECONDS = 600.0


@dataclass(frozen=True)
class ObservedStage:
    """One stage's device, as it was last seen."""

    device_name: str
    connected: bool
    why_away: str = ""  # one line; "" while connected
    addresses: frozenset[str] = frozenset()  # where neighbours may reach it
    holds: bool = False  # it says that it holds this stage of this plan


@dataclass(frozen=True)
class ObservedStream:
    """The stream to the head. `broken_at`: when the ring last failed a request, or the head did not attach us; None while it stands."""

    attached: bool = False
    broken_at: float | None = None
    why: str = ""  # it is not attached


@dataclass(frozen=True)
class ObservedPipeline:
    """`replaced`: a newer generation of its deployment is being brought about, so that nothing is repaired."""

    stages: tuple[ObservedStage, ...]
    stream: ObservedStream = ObservedStream()
    replaced: bool = False

    @property
    def addresses(self) -> tuple[frozenset[str], ...] | None:
        """Where the devices of the ring may be reached now; None unless all are there."""
        return tuple(stage.addresses for stage in self.stages) if all(stage.connected for stage in self.stages) else None

    @property
    def lost(self) -> tuple[int, ...]:
        """Stages whose device is there and does not hold them."""
        return tuple(number for number, stage in enumerate(self.stages) if stage.connected and not stage.holds)


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
    """All stages are there, and the stream to the head is not."""

    detail: str


PipelineState: TypeAlias = Ready | Waiting | Repairing | Attaching


@dataclass(frozen=True)
class Repair:
    """Load the stages again that were lost. `ring`: neighbours look for each other at old addresses, so that all are told anew."""

    stages: tuple[int, ...]
    ring: bool = False


@dataclass(frozen=True)
class Reattach:
    """Begin the stream anew."""


@dataclass(frozen=True)
class Replan:
    """Plan it anew over the devices there are: one of its own has been away for too long."""


@dataclass(frozen=True)
class Look:
    """Ask the devices what they hold: the stream failed, and one may have lost its stage."""


PipelineAction: TypeAlias = Repair | Reattach | Replan | Look


@dataclass(frozen=True)
class Phase:
    state: PipelineState
    actions: tuple[PipelineAction, ...] = ()


def pipeline_phase(observed: ObservedPipeline, history: History, now: float, *, replan_after: float | None = None) -> Phase:
    """`now` and all times are of one monotonic clock, in seconds. `replan_after`: so long may a device be away; None: for ever."""
    return Phase(pipeline_state(observed, history), _actions(observed, history, now, replan_after))


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
    away = tuple(number for number, stage in enumerate(observed.stages) if not stage.connected)
    if not away:
        return replace(history, away=(), away_since=None, replan_failure=None)
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
    return Ready()


def _actions(observed: ObservedPipeline, history: History, now: float, replan_after: float | None) -> tuple[PipelineAction, ...]:
    if history.repairing is not None or history.replanning or observed.replaced:
        return ()
    if _must_move(history, now, replan_after):
        return (Replan(),)
    if history.stale_stream:
        return (Reattach(),)
    lost, moved = observed.lost, _moved(observed, history)
    if lost or moved:
        return (Repair(lost, ring=moved),) if _may_try(observed, history, now) else ()
    broken_at = observed.stream.broken_at
    if broken_at is not None and (history.looked_at is None or history.looked_at < broken_at):
        return (Look(),)
    return ()


def _moved(observed: ObservedPipeline, history: History) -> bool:
    """The ring does not stand, and a device may be elsewhere than its neighbour looks for it."""
    addresses = observed.addresses
    return observed.stream.broken_at is not None and addresses is not None and addresses != history.sent_addresses


def _must_move(history: History, now: float, replan_after: float | None) -> bool:
    if replan_after is None or history.away_since is None or now < history.away_since + replan_after:
        return False
    failure = history.replan_failure
    if failure is None:
        return True
    return now >= failure.at + min(REPLAN_WAIT_SECONDS * 2.0 ** min(failure.count - 1, 10), LONGEST_REPLAN_WAIT_SECONDS)


def _may_try(observed: ObservedPipeline, history: History, now: float) -> bool:
    failure = history.failure
    if failure is None or failure.stages != observed.stages:
        return True
    # The exponent is bounded: a float overflows after 1,000 failures.
    wait = min(FIRST_WAIT_SECONDS * 2.0 ** min(failure.count - 1, 10), LONGEST_WAIT_SECONDS)
    return now >= failure.at + wait
