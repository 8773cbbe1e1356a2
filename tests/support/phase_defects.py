"""Defects that are seeded into the state of a pipeline, to see whether its test machine finds them."""

from __future__ import annotations

# One defect for each transition: what is in the text, and what stands there instead.
MUTATIONS = {
    "away counts as here": ("if not stage.connected), None)", "if stage.connected and not stage.holds and False), None)"),
    "lost is not seen in the state": ("if repairing or history.stale_stream or observed.lost:", "if repairing or history.stale_stream:"),
    "a stale stream counts as ready": ("if repairing or history.stale_stream or", "if repairing or"),
    "an ended stream counts as ready": ("if not observed.stream.attached:", "if False:"),
    "lost is never repaired": ("    if lost or moved:", "    if moved:"),
    "moved is never repaired": ("    if lost or moved:", "    if lost:"),
    "loads on a device that is away": ("if stage.connected and not stage.holds)", "if not stage.holds)"),
    "loads what is there": ("if stage.connected and not stage.holds)", "if stage.connected)"),
    "two repairs at once": ("if history.repairing is not None or history.replanning or", "if history.replanning or"),
    "never reattaches": ("        return (Reattach(),)", "        return ()"),
    "reattaching is not remembered": ("return replace(history, stale_stream=False)", "return history"),
    "a success is not remembered": ("replace(history, repairing=None, loading=False, failure=None,", "replace(history, failure=None,"),
    "a load does not make the stream stale": ("stale = history.stale_stream or loaded", "stale = history.stale_stream"),
    "a load whose answer was lost is forgotten": (
        "failure, stale = Failure(detail, count, now, stages), history.stale_stream or history.loading",
        "failure, stale = Failure(detail, count, now, stages), history.stale_stream",
    ),
    "a failure ends all repairs": ("    if failure is None or failure.stages != observed.stages:", "    if failure is None:"),
    "a failure is tried again at once": ("    return now >= failure.at + wait", "    return True"),
    "never tries again": ("    return now >= failure.at + wait", "    return False"),
    "addresses are told again and again": ("sent_addresses=sent_addresses,", "sent_addresses=None,"),
    "a failure outlives its cause": (
        "        history = replace(history, failure=None)",
        "        pass",
    ),
    "never looks": ("(Look(),) if unseen else ()", "()"),
    "a broken ring counts as ready": (
        "    if observed.stream.broken_at is not None:\n        return Attaching",
        "    if False:\n        return Attaching",
    ),
    "a broken ring is not connected again": ("return (*look, Reattach()) if connects else look", "return look"),
    "a look is not remembered": ("return replace(history, looked_at=now)", "return history"),
}
# Of those that have a time after which they are planned anew.
MOVES = {
    "moves at once": ("now < history.away_since + replan_after):", "False):"),
    "never moves": ("        return (Replan(),)", "        pass"),
    "two moves at once": ("return replace(history, replanning=True)", "return history"),
    "a failed move is tried again at once": (
        "    return now >= failure.at + min(REPLAN_WAIT_SECONDS",
        "    return True or (REPLAN_WAIT_SECONDS",
    ),
    "a failed move is the last": ("replanning=False, replan_failure=Failure", "replan_failure=Failure"),
    "times away add up": ("return replace(history, away=(), away_since=None, replan_failure=failure)", "return history"),
    "the time away begins anew at each look": (
        "now if history.away_since is None or set(history.away) - set(away) else history.away_since",
        "now",
    ),
}


# Of those with a standby.
STANDBYS = {
    "leaves who may be back": ("    if not _may_move(history, now) or now < _left_at(observed, history):", "    if False:"),
    "leaves a ring that stands": ("(GRACE_SECONDS if observed.broken else UNBROKEN_SECONDS)", "GRACE_SECONDS"),
    "waits though the ring is broken": ("(GRACE_SECONDS if observed.broken else UNBROKEN_SECONDS)", "UNBROKEN_SECONDS"),
    "never takes over": ("            return TakeOver(moves)", "            return None"),
    "takes over what is not ready": ("        if stages[0] in standby.ready:", "        if True:"),
    "does not know when to look again": ("    return left_at if covered.intersection", "    return None if covered.intersection"),
    "stays on what is switched off": (
        "    if _must_move(observed, history, now, replan_after) or _must_leave(observed, history, now):",
        "    if _must_move(observed, history, now, replan_after):",
    ),
    "only who is away is left": ("({*away, *draining}, set(away), *(() if away else ({stage} for stage in draining)))", "(set(away),)"),
}


# Those that take a second and more to be met with.
RARE = {
    "a stale stream counts as ready",
    "lost is not seen in the state",
    "never tries again",
    "moved is never repaired",
    "a failure is tried again at once",
    "a load whose answer was lost is forgotten",
    "a load does not make the stream stale",
    "a failure ends all repairs",
    "the time away begins anew at each look",
    "a failed move is tried again at once",
    "a failed move is the last",
    "never moves",
    "two moves at once",
    "never looks",
    "away counts as here",
    "a look is not remembered",
}
