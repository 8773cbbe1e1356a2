"""The kernel tells of every kind of change by itself, and of nothing where nothing changes."""

from __future__ import annotations

import signal
import time

import pytest

from tests.hosts.network import Network, needs_hosts

pytestmark = needs_hosts

TOLD_SECONDS = 5.0  # milliseconds, where nothing else runs


def test_every_kind_of_change_is_told(network: Network) -> None:
    host = network.host("here")
    program = host.start("tests.hosts.told")
    program.wait_for(lambda said: "listens" in said)
    for change in (
        "link add eth0 type veth peer name eth1",
        "link set eth0 up",
        "link set eth1 up",
        "addr add 192.168.7.2/24 dev eth0",
        "addr del 192.168.7.2/24 dev eth0",
        "-6 addr add fd00::2/64 dev eth0",
        "-6 addr del fd00::2/64 dev eth0",
        "link set eth0 multicast off",
        "link set eth1 down",
        "link del eth0",
    ):
        while program.within(0.3):  # until all of the change before is told
            pass
        since = time.monotonic()
        host.ip(change)
        assert program.since(since, lambda said: "told" in said, TOLD_SECONDS), change


@pytest.mark.long
def test_a_thousand_changes_that_nobody_reads_are_told_too(network: Network) -> None:
    """The messages are more than the kernel keeps of them; afterwards it tells as before."""
    host = network.host("here")
    host.ip("link add eth0 type veth peer name eth1")
    program = host.start("tests.hosts.told")
    program.wait_for(lambda said: "listens" in said)
    program.process.send_signal(signal.SIGSTOP)
    host.ip_each(f"addr add 10.{n // 250}.{n % 250}.1/24 dev eth0" for n in range(2000))
    program.process.send_signal(signal.SIGCONT)
    program.wait_for(lambda said: "told" in said, TOLD_SECONDS)
    while program.within(0.5):
        pass
    since = time.monotonic()
    host.ip("link set eth0 up")
    program.since(since, lambda said: "told" in said, TOLD_SECONDS)
