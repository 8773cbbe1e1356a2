"""What silence says, and how often a lossy link makes one that lies."""

from __future__ import annotations

import numpy as np
import pytest

from protos import silence as module
from protos.silence import BEAT_SECONDS, GONE_BEATS, MOST_COUNTED_SECONDS, Attention, Silence, Verdict
from tests.support.mutation import mutated


@pytest.mark.parametrize(
    ("seconds", "beat_seconds", "verdict", "words"),
    [
        (0.0, 0.25, "well", "silent for 0.0 s"),
        (0.74, 0.25, "well", "silent for 0.7 s"),
        (0.75, 0.25, "suspect", "silent for 0.8 s"),
        (1.74, 0.25, "suspect", "silent for 1.7 s"),
        (1.75, 0.25, "gone", "silent for 1.8 s"),
        (2.9, 1.0, "well", "silent for 2.9 s"),
        (6.9, 1.0, "suspect", "silent for 6.9 s"),
        (7.0, 1.0, "gone", "silent for 7.0 s"),
    ],
)
def test_it_is_judged_by_the_beats_that_are_missing(seconds: float, beat_seconds: float, verdict: Verdict, words: str) -> None:
    found = Silence(seconds, beat_seconds)
    assert (found.verdict, str(found)) == (verdict, words)


def test_whoever_did_not_listen_heard_no_silence() -> None:
    """Looks each 0.1 s; then the process stood still for a minute, then it had a core for a third of the time."""
    attention = Attention(now=100.0)
    assert attention.look(100.1) == pytest.approx(0.1)
    assert attention.look(160.1) == pytest.approx(0.1 + MOST_COUNTED_SECONDS)
    for number in range(1, 11):
        heard = attention.look(160.1 + 0.3 * number)
    assert heard == pytest.approx(0.1 + 11 * MOST_COUNTED_SECONDS)
    assert attention.look(100.0) == heard  # a clock that goes back tells nothing


def test_a_late_look_that_counted_in_full_would_be_found() -> None:
    defective = mutated(module, "min(max(0.0, now - self._looked_at), MOST_COUNTED_SECONDS)", "max(0.0, now - self._looked_at)")
    assert Silence(defective.Attention(0.0).look(9.0), BEAT_SECONDS).verdict == "gone"


# A stream on which only beats are sent, of which each is one segment, lost with a chance of 5 % each time it is sent.
LOSS, ROUND_TRIP_SECONDS, TIMEOUT_SECONDS = 0.05, 0.01, 0.2


def delays(losses: np.ndarray, linear: int) -> np.ndarray:
    """By which a segment comes late that is lost so often: the timeout is the same `linear` times, then doubled each time (RFC 6298)."""
    timeout = TIMEOUT_SECONDS + ROUND_TRIP_SECONDS
    doubled = np.maximum(losses - linear, 0)
    return timeout * (np.minimum(losses, linear) + 2 * (2.0**doubled - 1))


def false_deaths(hours: float, linear: int, seed: int = 7) -> int:
    """Silences of a far side that is well, as long as those of one that is gone. Nothing overtakes what was sent before it, and what comes
    behind a lost segment does not hurry it, as it does in truth (RFC 8985): so these are more than there are."""
    beats = round(hours * 3600 / BEAT_SECONDS)
    losses = np.random.default_rng(seed).geometric(1 - LOSS, beats) - 1
    came = np.maximum.accumulate(np.arange(beats) * BEAT_SECONDS + delays(losses, linear))
    return int((np.diff(came) >= GONE_BEATS * BEAT_SECONDS).sum())


def test_five_per_cent_of_loss_is_no_death() -> None:
    """It takes seven losses of one beat in a row, 8e-10 of 14,400 beats an hour: one in ten years. Where the timeout is doubled from the
    first, it takes four, 6e-6: one in eleven hours. A hundred hours of each."""
    assert false_deaths(100.0, linear=6) == 0
    assert 3 <= false_deaths(100.0, linear=1) <= 30
