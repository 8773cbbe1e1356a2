"""What silence on a stream says of its far side: a pure judgement of how long it has lasted, in time that we ourselves have listened.

Whoever announces beats sends something at least that often. TCP makes silences of its own: a segment that is lost comes after the
retransmission timeout, 0.2 s at least and doubled each time (RFC 6298), 0.2 s again and again where the sender has asked for that
(protos/net/thin.py). To be silent for seven beats of 0.25 s, one has to be lost seven times in a row, or four where that is not so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["well", "suspect", "gone"]

SUSPECT_BEATS, GONE_BEATS = 3.0, 7.0  # of silence

# Of whoever is asked: somebody waits for what it says. And of whoever asks: its silence only keeps a place taken.
BEAT_SECONDS, ASKERS_BEAT_SECONDS = 0.25, 1.0
LONGEST_BEAT_SECONDS = 60.0
# Along a ring in which nothing has been open for RESTS_AFTER_SECONDS beats are so much rarer: devices tell the coordinator that they live.
REST, RESTS_AFTER_SECONDS = 8.0, 2.0

# A request whose ring broke waits so long for one that goes on with it, and so long stages keep its rows: a board that starts anew takes
# less than a minute; then its pipeline is planned anew, which may send weights.
RECOVERY_SECONDS = 120.0

# How often those who listen look; a look that comes later than this counts for no more: what held us up may have held up what we heard.
LOOK_SECONDS = 0.1
MOST_COUNTED_SECONDS = 0.15


@dataclass(frozen=True)
class Silence:
    """It has lasted for `seconds`, of a far side that promised a message each `beat_seconds`."""

    seconds: float
    beat_seconds: float

    @property
    def verdict(self) -> Verdict:
        """
        >>> [Silence(seconds, 0.25).verdict for seconds in (0.7, 0.8, 1.7, 1.8)]
        ['well', 'suspect', 'suspect', 'gone']
        """
        beats = self.seconds / self.beat_seconds
        return "gone" if beats >= GONE_BEATS else "suspect" if beats >= SUSPECT_BEATS else "well"

    def __str__(self) -> str:
        return f"silent for {self.seconds:.1f} s"


class Attention:
    """A clock of the time that we have listened, advanced by looks: a stall of this process, or a machine that slept, is not silence."""

    def __init__(self, now: float) -> None:
        self.seconds = 0.0
        self._looked_at = now

    def look(self, now: float) -> float:
        """Seconds listened until now, of which a late look counts MOST_COUNTED_SECONDS only.

        >>> attention = Attention(now=0.0)
        >>> [round(attention.look(now), 2) for now in (0.1, 0.2, 9.2, 9.3)]
        [0.1, 0.2, 0.35, 0.45]
        """
        self.seconds += min(max(0.0, now - self._looked_at), MOST_COUNTED_SECONDS)
        self._looked_at = now
        return self.seconds


class Pace:
    """How often beats go on a stream of a ring: seldom once nothing was open for a while."""

    def __init__(self, beat_seconds: float, busy: Callable[[], bool], clock: Callable[[], float]) -> None:
        """`beat_seconds` while it is `busy`; 0: none ever. `clock` in seconds."""
        self._beat_seconds = beat_seconds
        self._busy = busy
        self._clock = clock
        self._busy_at = clock()

    @property
    def seconds(self) -> float:
        """Between two beats, now. Look at least as often as they go while it is busy."""
        now = self._clock()
        if self._busy():
            self._busy_at = now
        return self._beat_seconds if now - self._busy_at < RESTS_AFTER_SECONDS else self._beat_seconds * REST


def announced_seconds(milliseconds: int) -> float:
    """What the far side announced as its beat; 0: it does not beat. One that is out of all bounds is brought within them.

    >>> [announced_seconds(milliseconds) for milliseconds in (0, 1, 250, 4_000_000_000)]
    [0.0, 0.1, 0.25, 60.0]
    """
    return min(max(milliseconds / 1000, LOOK_SECONDS), LONGEST_BEAT_SECONDS) if milliseconds else 0.0


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def beats_between(interval_seconds: float, beat_seconds: float) -> int:
    """How many beats go, evenly, between two messages that are so far apart; 0 where none are wanted.

    >>> [beats_between(1.0, beat) for beat in (0.25, 0.3, 2.0, 0.0)]
    [3, 3, 0, 0]
    """
    return max(0, math.ceil(interval_seconds / beat_seconds - 1e-9) - 1) if beat_seconds else 0
