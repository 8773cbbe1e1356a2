"""The times by which a device is judged, and dialled again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Liveness:
    """Telemetry is the sign of life: mDNS keeps a dead device listed for up to 19 minutes."""

    interval_seconds: float = 1.0  # between samples
    suspect_intervals: int = 3
    offline_seconds: float = 15.0
    first_wait_seconds: float = 0.2
    wait_factor: float = 1.8  # aioesphomeapi's
    longest_wait_seconds: float = 10.0

    def wait_seconds(self, failures: int) -> float:
        """Before the next dial, after this many failures in a row (0: the link had stood)."""
        # The exponent is bounded: a float overflows after 1,200 failures.
        return min(self.first_wait_seconds * self.wait_factor ** min(failures, 50), self.longest_wait_seconds)
