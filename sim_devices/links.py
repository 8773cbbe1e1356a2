"""How links behave, in netem's words, and which link a rule is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sim_devices import quantities


@dataclass(frozen=True)
class LinkShape:
    """One direction of a link. `rate` counts the bits of TCP's payload; `loss` is of segments, below 1."""

    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0  # delay is even between delay - jitter and delay + jitter
    rate_bits_per_second: float | None = None  # None: as fast as this machine
    loss: float = 0.0

    @property
    def text(self) -> str:
        """ "delay 20ms 5ms rate 10mbit loss 1%", as tc writes it; "" for a link like a wire."""
        words = []
        if self.delay_seconds or self.jitter_seconds:
            words.append(f"delay {quantities.duration_text(self.delay_seconds)}")
        if self.jitter_seconds:
            words.append(quantities.duration_text(self.jitter_seconds))
        if self.rate_bits_per_second:
            words.append(f"rate {quantities.rate_text(self.rate_bits_per_second)}")
        if self.loss:
            words.append(f"loss {self.loss * 100:g}%")
        return " ".join(words)


WIRE = LinkShape()


@dataclass(frozen=True)
class LinkRule:
    """`source` and `target` are names, or `*` patterns of them; "coordinator" is whoever is no device."""

    source: str
    target: str
    shape: LinkShape
    both_ways: bool

    def covers(self, source: str, target: str) -> bool:
        return self._one_way(source, target) or (self.both_ways and self._one_way(target, source))

    def _one_way(self, source: str, target: str) -> bool:
        return fnmatchcase(source, self.source) and fnmatchcase(target, self.target)


def shape_between(rules: Sequence[LinkRule], source: str, target: str) -> LinkShape:
    """Of what goes from `source` to `target`: the last rule that covers it, as exceptions come after what they are from."""
    return next((rule.shape for rule in reversed(rules) if rule.covers(source, target)), WIRE)
