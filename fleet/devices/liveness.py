"""The times by which a device is judged, and dialled again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from protos.errors import Unavailable


@dataclass(frozen=True)
class Liveness:
    """Telemetry is the sign of life: mDNS keeps a dead device listed for up to 19 minutes."""

    interval_seconds: float = 1.0  # between samples
    suspect_intervals: int = 3
    doubted_intervals: int = 2  # so long a silence ends a connection that there is another reason to doubt
    offline_seconds: float = 15.0
    first_wait_seconds: float = 0.2
    wait_factor: float = 1.8  # aioesphomeapi's
    longest_wait_seconds: float = 10.0

    def wait_seconds(self, failures: int) -> float:
        """Before the next dial, after this many failures in a row (0: the link had stood)."""
        # The exponent is bounded: a float overflows after 1,200 failures.
        return min(self.first_wait_seconds * self.wait_factor ** min(failures, 50), self.longest_wait_seconds)


class Patience:
    """For how long one who listens waits for the next sign of life: until the device counts as offline, and less while in doubt."""

    def __init__(self, rules: Liveness) -> None:
        self._rules = rules
        self._now = asyncio.get_running_loop().time
        self._heard_at = self._now()
        self.until = self.heard()

    def heard(self) -> float:
        """A sign of life; returns until when to wait, by the event loop's clock."""
        self._heard_at = self._now()
        self.until = self._heard_at + self._rules.offline_seconds
        return self.until

    def in_doubt(self) -> float:
        """The network has changed, or the device is said to be elsewhere: one that has to be silent for that is not waited for."""
        silent = self._heard_at + self._rules.doubted_intervals * self._rules.interval_seconds
        self.until = min(self.until, max(silent, self._now() + self._rules.interval_seconds))
        return self.until

    def ended(self) -> Unavailable:
        return Unavailable(f"no telemetry for {self._now() - self._heard_at:.0f} s")
