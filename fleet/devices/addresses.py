"""Where one device may be found: what was heard, what has proven right, and in which order to try it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from protos.errors import FleetError
from protos.link_failure import LinkFailure
from protos.net.addresses import without_zone

MOST = 16  # remembered of one device: several interfaces, a new lease, and somebody's forgeries
MOST_TRUSTED = 8  # of these, of what has proven right or was named: a board with another port at each start proves one after the other
_NOT_ITS = (LinkFailure.ANOTHER_MEMBER, LinkFailure.ANOTHER_AUTHORITY)


@dataclass(frozen=True)
class Address:
    """`proven`: the device's own key answered there. `failures`: in a row since."""

    text: str  # "host:port", a link-local one without its zone
    found_by: str  # "seed", "memory" or "mdns"
    proven: bool = False
    failures: int = 0


@dataclass(frozen=True)
class Addresses:
    """`known`: the latest heard first, in the order in which it was heard."""

    known: tuple[Address, ...] = ()

    @property
    def to_try(self) -> tuple[str, ...]:
        """All, in this order: what did not fail last, what has proven right, what people or memory named, what an advert said.

        Who can forge an advert can therefore add an attempt, and never take one away.
        """
        return tuple(one.text for one in sorted(self.known, key=lambda one: (one.failures > 0, not one.proven, one.found_by == "mdns")))

    def found_by(self, address: str) -> str:
        """ "" for one that is not known."""
        return next((one.found_by for one in self.known if one.text == without_zone(address)), "")

    def heard(self, addresses: Iterable[str], found_by: str) -> Addresses:
        """It is said to be at these, in this order. What it is known for is kept."""
        before = {one.text: one for one in self.known}
        now = {text: before.get(text) or Address(text, found_by) for text in map(without_zone, addresses)}
        if found_by != "mdns":  # whatever was heard of it before
            now = {text: replace(one, found_by=found_by) if one.found_by == "mdns" else one for text, one in now.items()}
        # Said again: a device that has come back is looked for there as if it had never failed.
        again = [replace(one, failures=0) for one in now.values()]
        return Addresses(_bounded((*again, *(one for one in self.known if one.text not in now))))

    def worked(self, address: str) -> Addresses:
        """It answered there."""
        text = without_zone(address)
        proven = replace(self._one(text), proven=True, failures=0)
        return Addresses(_bounded((proven, *(one for one in self.known if one.text != text))))

    def failed(self, errors: Mapping[str, FleetError]) -> Addresses:
        """It did not answer there. One that somebody else answers at has proven nothing any more."""
        known = []
        for one in self.known:
            said = [error for address, error in errors.items() if without_zone(address) == one.text]
            if said:
                stays = one.proven and not any(error.link_failure in _NOT_ITS for error in said)
                one = replace(one, failures=one.failures + 1, proven=stays)
            known.append(one)
        return Addresses(tuple(known))

    def _one(self, text: str) -> Address:
        return next((one for one in self.known if one.text == text), Address(text, "mdns"))


def _bounded(known: tuple[Address, ...]) -> tuple[Address, ...]:
    """Without those that are the least use.

    Forged adverts never take the place of what is trusted: named first, then proven, what does not fail before what does. Nor do proofs of
    long ago take the place of what was heard just now.
    """
    if len(known) <= MOST:
        return known
    order = range(len(known))  # the latest heard first
    trusted = [n for n in order if known[n].proven or known[n].found_by != "mdns"]
    trusted.sort(key=lambda n: (known[n].found_by == "mdns", known[n].failures > 0, n))
    kept = set(trusted[:MOST_TRUSTED])
    others = sorted(set(order) - kept, key=lambda n: (known[n].failures, n))
    kept.update(others[: MOST - len(kept)])
    return tuple(one for n, one in enumerate(known) if n in kept)
