"""The times by which a device is judged, and dialled again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from protos.errors import Unavailable
from protos.net.beats import Watch
from protos.silence import BEAT_SECONDS, GONE_BEATS, Silence, announced_seconds


@dataclass(frozen=True)
class Liveness:
    """Telemetry is the sign of life: mDNS keeps a dead device listed for up to 19 minutes. Between samples come beats; where they do not,
    from a release before, the intervals and `offline_seconds` judge."""

    interval_seconds: float = 1.0  # between samples
    beat_seconds: float = BEAT_SECONDS  # asked of devices and gateways; 0: none
    suspect_intervals: int = 3
    doubted_intervals: int = 2  # so long a silence ends a connection that there is another reason to doubt
    offline_seconds: float = 15.0
    first_wait_seconds: float = 0.2
    wait_factor: float = 1.8  # aioesphomeapi's
    longest_wait_seconds: float = 10.0

    @property
    def gone_seconds(self) -> float:
        """So long a silence ends the connection to whoever beats."""
        return GONE_BEATS * self.beat_seconds

    def wait_seconds(self, failures: int) -> float:
        """Before the next dial, after this many failures in a row (0: the link had stood)."""
        # The exponent is bounded: a float overflows after 1,200 failures.
        return min(self.first_wait_seconds * self.wait_factor ** min(failures, 50), self.longest_wait_seconds)

    def beat_of(self, milliseconds: int) -> float:
        """What is promised by whoever announces this, in seconds; 0: nothing that these rules could judge by."""
        announced = announced_seconds(milliseconds)
        return announced if announced <= 2 * self.beat_seconds else 0.0


class Patience:
    """An async context manager around listening: leaving it by silence raises Unavailable, which says how long that was.

    One that beats is waited for as long as `protos.silence` says. Of others, until the device counts as offline, and less while in doubt.
    """

    def __init__(self, rules: Liveness, changed: Callable[[], None]) -> None:
        """`changed` is told when what the beats say has changed."""
        self._rules = rules
        self._changed = changed
        self._watch: Watch | None = None
        self._now = asyncio.get_running_loop().time
        self._heard_at = self._now()
        self._timeout = asyncio.timeout_at(self._heard_at + rules.offline_seconds)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._watch is not None:
            self._watch.__exit__(None, None, None)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._ended() from None

    @property
    def silence(self) -> Silence | None:
        """Until now; None where there are no beats to judge by."""
        return None if self._watch is None else self._watch.silence

    def heard(self, beat_milliseconds: int) -> None:
        """A sign of life, and what it announces; 0: nothing new."""
        self._heard_at = self._now()
        if self._watch is None and (beat_seconds := self._rules.beat_of(beat_milliseconds)):
            self._watch = Watch(beat_seconds, self._judged).__enter__()
            self._timeout.reschedule(None)
        if self._watch is not None:
            self._watch.heard()
        else:
            self._timeout.reschedule(self._heard_at + self._rules.offline_seconds)

    def doubt(self) -> None:
        """The network has changed, or the device is said to be elsewhere: one that has to be silent for that is not waited for."""
        if self._watch is None and (until := self._timeout.when()) is not None and not self._timeout.expired():
            silent = self._heard_at + self._rules.doubted_intervals * self._rules.interval_seconds
            self._timeout.reschedule(min(until, max(silent, self._now() + self._rules.interval_seconds)))

    def _judged(self, silence: Silence) -> None:
        if silence.verdict == "gone" and not self._timeout.expired():
            self._timeout.reschedule(self._now())
        self._changed()

    def _ended(self) -> Unavailable:
        if self._watch is not None:
            return self._watch.error()
        return Unavailable(f"no telemetry for {self._now() - self._heard_at:.0f} s")
