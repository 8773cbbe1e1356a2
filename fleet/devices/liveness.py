"""When a device counts as online, and how long to wait before it is dialled again."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.devices.views import DeviceState


@dataclass(frozen=True)
class Liveness:
    """Telemetry is the sign of life: mDNS keeps a dead device listed for up to 19 minutes (FACTS, mDNS)."""

    interval_seconds: float = 1.0  # between samples
    suspect_intervals: int = 3
    offline_seconds: float = 15.0
    first_wait_seconds: float = 0.2
    wait_factor: float = 1.8  # aioesphomeapi's
    longest_wait_seconds: float = 10.0

    def state(self, *, connected: bool, silence_seconds: float | None) -> DeviceState:
        """`silence_seconds` since the last sample; None: never heard, or it said something that rules it out."""
        if silence_seconds is None or silence_seconds >= self.offline_seconds:
            return "offline"
        if not connected or silence_seconds >= self.suspect_intervals * self.interval_seconds:
            return "suspect"
        return "online"

    def wait_seconds(self, failures: int) -> float:
        """Before the next dial, after this many failures in a row (0: the link had stood)."""
        # The exponent is bounded: a float overflows after 1,200 failures.
        return min(self.first_wait_seconds * self.wait_factor ** min(failures, 50), self.longest_wait_seconds)
