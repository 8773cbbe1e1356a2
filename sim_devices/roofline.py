"""How long a run would take on a device of some profile, and what it would draw."""

from __future__ import annotations

from dataclasses import dataclass

from sim_devices.profiles import Profile


@dataclass(frozen=True)
class Modelled:
    """Of one run. Joules include the idle power of the time it takes."""

    seconds: float
    joules: float


def model(profile: Profile, *, read_bytes: float, macs: float) -> Modelled:
    """Roofline of two terms: t = max(bytes / (e_b B), macs / (e_c C)) + launch; E = P_idle t + bytes e_byte + macs e_mac.

    A run that would draw more than the TDP takes longer instead: t is stretched until E / t is the TDP, as a board's power limit does by
    lowering the clock. The dynamic energy stays what it is.
    """
    roof = max(read_bytes / profile.memory_bandwidth_bytes_per_second, macs / profile.macs_per_second) + profile.launch_seconds
    dynamic = read_bytes * profile.joules_per_byte + macs * profile.joules_per_mac
    seconds = max(roof, dynamic / (profile.tdp_watts - profile.idle_watts))
    return Modelled(seconds, profile.idle_watts * seconds + dynamic)
