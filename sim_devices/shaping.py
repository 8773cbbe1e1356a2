"""When bytes arrive that are sent over a shaped link: a pure schedule, of which time and chance are arguments."""

from __future__ import annotations

import math
import random

from sim_devices.links import LinkShape

SEGMENT_BYTES = 1448  # of payload in an Ethernet frame of 1,500, with TCP's timestamps
# Linux's least retransmission timeout, which is added to the round trip (tcp_rto_min, net/ipv4/tcp_input.c).
RETRANSMIT_SECONDS = 0.2
_DUPLICATES = 3  # segments behind a lost one that make the sender repeat it at once (RFC 5681, 3.2)
_MOST_TRIES = 8
# Streams of fewer segments than this wait the same timeout so often before it is doubled: agents ask for it (protos/net/thin.py).
_THIN_SEGMENTS, _LINEAR_TRIES = 4, 6
_QUANTUM_SECONDS = 0.001


class Line:
    """One direction between two ends; all its connections share it, first come, first served.

    Payload leaves at the rate, then takes the delay. TCP lies above: what is lost comes late, not never. A lost segment costs one round
    trip more when enough follows to tell of it, else the retransmission timeout, doubled each time it is lost again, later of a thin
    stream; and what follows waits for it (the caller keeps the order of each connection). Loss also bounds the window: at most
    MSS √1.5 / √loss in a round trip (Mathis et al., The macroscopic behavior of the TCP congestion avoidance algorithm, 1997).
    """

    def __init__(self, shape: LinkShape, round_trip_seconds: float, chance: random.Random) -> None:
        """`round_trip_seconds`: the delays of both directions."""
        self._chance = chance
        self._free = -math.inf  # when all that was sent has left
        self._window_at = -math.inf
        self.reshape(shape, round_trip_seconds)

    def reshape(self, shape: LinkShape, round_trip_seconds: float) -> None:
        """For what is sent from now on."""
        self.shape = shape
        self.round_trip_seconds = round_trip_seconds

    @property
    def plain(self) -> bool:
        """Nothing is changed on the way."""
        return self.shape == LinkShape() and not self.round_trip_seconds

    @property
    def piece_bytes(self) -> int:
        """The largest that should be sent at once: what passes in a millisecond, a segment at least."""
        rate = self.shape.rate_bits_per_second
        return 65536 if rate is None else min(65536, max(SEGMENT_BYTES, int(rate / 8 * _QUANTUM_SECONDS)))

    def queue_seconds(self, now: float) -> float:
        """How long what was sent last still waits to leave."""
        return max(0.0, self._free - now)

    def send(self, now: float, count: int, behind: int) -> float:
        """When `count` bytes arrive that are sent now, with `behind` bytes ready to follow them."""
        shape = self.shape
        left = max(now, self._free)
        if shape.rate_bits_per_second:
            left += count * 8 / shape.rate_bits_per_second
        if shape.loss:
            left = max(left, self._window(now, count))
        self._free = left
        arrives = left + shape.delay_seconds
        if shape.jitter_seconds:
            arrives += self._chance.uniform(-shape.jitter_seconds, shape.jitter_seconds)
        if shape.loss:
            arrives += self._repeating(count, behind)
        return arrives

    def _window(self, now: float, count: int) -> float:
        """When the congestion window lets these go: a bucket that holds one window and fills in a round trip."""
        window_bytes = SEGMENT_BYTES * math.sqrt(1.5 / self.shape.loss)
        self._window_at = max(self._window_at, now) + count / window_bytes * self.round_trip_seconds
        return self._window_at - self.round_trip_seconds

    def _repeating(self, count: int, behind: int) -> float:
        """Seconds lost by repeating what was lost of `count` bytes."""
        segments = math.ceil(count / SEGMENT_BYTES)
        if self._chance.random() >= 1 - (1 - self.shape.loss) ** segments:
            return 0.0
        timeout = self.round_trip_seconds + RETRANSMIT_SECONDS
        seconds = self.round_trip_seconds if behind >= _DUPLICATES * SEGMENT_BYTES else timeout
        same = _LINEAR_TRIES if segments + behind // SEGMENT_BYTES < _THIN_SEGMENTS else 0
        for tries in range(_MOST_TRIES):
            if self._chance.random() >= self.shape.loss:
                break
            seconds += timeout
            timeout *= 1 if tries < same else 2
        return seconds
