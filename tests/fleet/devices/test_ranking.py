"""Which of a device's addresses are dialled, and in which order."""

from __future__ import annotations

import pytest

from fleet.devices.ranking import MOST, is_near, ranked
from protos.net.interfaces import Interface

OURS = (
    Interface("127.0.0.1", 8),
    Interface("192.168.1.10", 24),
    Interface("172.17.0.1", 16),  # Docker's bridge: the same on every host
    Interface("192.168.122.1", 24),  # libvirt's
    Interface("10.42.0.1", 24),  # a hotspot's
    Interface("fd00::10", 64),
    Interface("fe80::10", 64),
)


@pytest.mark.parametrize(
    ("addresses", "order"),
    [
        (["127.0.0.1"], ["127.0.0.1:1"]),
        (["127.0.0.1", "10.0.0.5"], ["10.0.0.5:1", "127.0.0.1:1"]),
        (["10.0.0.5", "192.168.1.77", "127.0.0.1"], ["192.168.1.77:1", "10.0.0.5:1", "127.0.0.1:1"]),
        (["192.168.1.78", "192.168.1.9"], ["192.168.1.9:1", "192.168.1.78:1"]),
        (["172.17.0.1", "192.168.1.77"], ["192.168.1.77:1", "172.17.0.1:1"]),
        (["192.168.122.1", "10.9.9.9"], ["10.9.9.9:1", "192.168.122.1:1"]),
        (["10.42.0.1", "169.254.3.3", "192.168.1.77"], ["192.168.1.77:1", "169.254.3.3:1", "10.42.0.1:1"]),
        (["fe80::9", "fd00::9", "2001:db8::9"], ["[fd00::9]:1", "[2001:db8::9]:1", "[fe80::9]:1"]),
        (["fe80::9%3", "192.168.1.77"], ["192.168.1.77:1", "[fe80::9]:1"]),
        (["::1", "fe80::10", "::"], ["[fe80::10]:1", "[::1]:1"]),
        (["192.168.1.10"], ["192.168.1.10:1"]),  # it runs here
        (["0.0.0.0", "224.0.0.251", "255.255.255.255", "240.0.0.1", "ff02::fb", "::ffff:10.0.0.1", "nonsense"], []),
        ([], []),
    ],
)
def test_which_address_is_dialled_first(addresses: list[str], order: list[str]) -> None:
    assert list(ranked(addresses, 1, OURS)) == order
    assert list(ranked(reversed(addresses), 1, OURS)) == order


def test_no_advert_makes_more_work_than_this() -> None:
    assert len(ranked([f"10.0.0.{n}" for n in range(200)], 1, OURS)) == MOST


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", False),  # one of sixteen million
        ("192.168.1.77", True),
        ("172.17.0.9", False),
        ("10.9.9.9", False),
        ("[fe80::10]", True),
        ("[fe80::11]", False),
        ("host.example", False),
    ],
)
def test_near_are_networks_so_small_that_each_address_can_be_looked_at(host: str, near: bool) -> None:
    assert is_near(host, OURS) == near
