"""Interfaces and addresses: which to browse, which to dial."""

from __future__ import annotations

import pytest

from fleet.devices.interfaces import Interface, best_address, ipv4_interfaces

OURS = (Interface("127.0.0.1", 8), Interface("192.168.1.10", 24))


@pytest.mark.parametrize(
    ("addresses", "best"),
    [
        (["127.0.0.1"], "127.0.0.1"),
        (["127.0.0.1", "10.0.0.5"], "10.0.0.5"),
        (["10.0.0.5", "192.168.1.77", "127.0.0.1"], "192.168.1.77"),
        (["192.168.1.78", "192.168.1.9"], "192.168.1.9"),
        (["10.0.0.6", "10.0.0.5"], "10.0.0.5"),
        (["0.0.0.0", "224.0.0.251", "255.255.255.255", "240.0.0.1", "fe80::1", "nonsense"], None),
        ([], None),
    ],
)
def test_which_address_is_dialled(addresses: list[str], best: str | None) -> None:
    assert best_address(addresses, OURS) == best
    assert best_address(reversed(addresses), OURS) == best


def test_this_machine_has_loopback_first() -> None:
    found = ipv4_interfaces()
    assert found[0].is_loopback
    assert len({one.address for one in found}) == len(found)
