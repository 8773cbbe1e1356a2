"""Finding devices on networks that change, come late and go: hosts of their own, real interfaces, real mDNS.

A third host hears when the agent has announced itself and the coordinator has asked who is there: both within 5 s of the change.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fleet.devices.liveness import Liveness
from tests.hosts.network import Host, Network, Program, needs_hosts
from tests.support.members import TestFleet

pytestmark = [pytest.mark.long, needs_hosts]

PORT = "7420"
DOCKER = "172.17.0.1/16"
NOTICED_SECONDS = 5.0  # under 1 s where nothing else runs
ONLINE_SECONDS = 5.0  # and the device serves there: under 4 s, of which its old connection has 2 to show that it stands


def online(name: str, address: str) -> Callable[[dict[str, Any]], bool]:
    return lambda said: (said.get("device"), said.get("state"), said.get("address")) == (name, "online", address)


def start_agent(host: Host, fleet: TestFleet, name: str, *through: str) -> Program:
    """`through`: a module that runs it."""
    fleet.member(name)
    return host.start(*through, "device", "--state", str(fleet.folder / name), "--name", name, "--port", PORT)


def start_finder(host: Host, fleet: TestFleet, *through: str) -> Program:
    fleet.member("me", "coordinator")
    return host.start(*through, "tests.hosts.finder", str(fleet.folder / "me"))


@dataclass
class Pair:
    """An agent and a coordinator on hosts without a network, and a third host that hears both."""

    network: Network
    fleet: TestFleet
    here: Host
    there: Host
    third: Host
    agent: Program
    finder: Program

    def plug(self, interface: str, net: str) -> Host:
        """A new network for all three, for example "192.168.7": here has .1, there .2. Returns its switch."""
        lan = self.network.switch()
        for number, host in enumerate((self.here, self.there, self.third), 1):
            self.network.plug(host, lan, interface, *([f"{net}.{number}/24"] if net else []))
        return lan

    def ear(self, interface: str = "eth0", family: str = "4") -> Program:
        ear = self.third.start("tests.hosts.ear", interface, family)
        ear.wait_for(lambda said: "listens" in said)
        return ear

    def noticed(self, ear: Program, since: float, here: str, there: str) -> None:
        """Both said something from addresses that begin so, and in the time."""
        asked = ear.since(since, lambda said: said.get("asks") == "anew" and said["from"].startswith(here), NOTICED_SECONDS)
        told = ear.since(since, lambda said: said["from"] in said.get("addresses", ()) and said["from"].startswith(there), NOTICED_SECONDS)
        assert max(asked["at"], told["at"]) - since < NOTICED_SECONDS

    def serves(self, since: float, address: str) -> None:
        said = self.finder.wait_for(online("gate-7", address), NOTICED_SECONDS + ONLINE_SECONDS)
        assert said["at"] - since < ONLINE_SECONDS


@pytest.fixture
def pair(network: Network, tmp_path: Path) -> Callable[..., Pair]:
    def start(*through: str, ipv6: bool = False, duplicates: bool = False) -> Pair:
        fleet = TestFleet.open(tmp_path)
        here, there, third = (network.host(name, ipv6=ipv6, duplicates=duplicates) for name in ("here", "there", "third"))
        agent, finder = start_agent(there, fleet, "gate-7", *through), start_finder(here, fleet, *through)
        agent.wait_for(lambda said: "address" in said)
        assert finder.wait_for(lambda said: "interfaces" in said)["interfaces"] == ["127.0.0.1"]
        return Pair(network, fleet, here, there, third, agent, finder)

    return start


def test_addresses_that_come_after_the_start(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.plug("eth0", "")
    both.third.ip("addr add 192.168.7.3/24 dev eth0")
    ear = both.ear()
    since = time.monotonic()
    both.here.ip("addr add 192.168.7.1/24 dev eth0")
    both.there.ip("addr add 192.168.7.2/24 dev eth0")
    both.noticed(ear, since, "192.168.7.1", "192.168.7.2")
    both.serves(since, f"192.168.7.2:{PORT}")


def test_addresses_that_become_others(pair: Callable[..., Pair]) -> None:
    """First of the device alone, then of both, as when a router is replaced."""
    both = pair()
    both.plug("eth0", "192.168.7")
    ear = both.ear()
    both.finder.wait_for(online("gate-7", f"192.168.7.2:{PORT}"))
    both.there.ip("addr del 192.168.7.2/24 dev eth0")
    since = time.monotonic()
    both.there.ip("addr add 192.168.7.9/24 dev eth0")
    both.serves(since, f"192.168.7.9:{PORT}")
    for host, number in ((both.here, 1), (both.there, 9)):
        host.ip(f"addr del 192.168.7.{number}/24 dev eth0")
    since = time.monotonic()
    for host, number in ((both.here, 1), (both.there, 2)):
        host.ip(f"addr add 10.20.30.{number}/24 dev eth0")
    both.noticed(ear, since, "10.20.30.1", "10.20.30.2")
    both.serves(since, f"10.20.30.2:{PORT}")


def test_another_interface(pair: Callable[..., Pair]) -> None:
    """A cable is drawn, and there is wireless."""
    both = pair()
    both.plug("eth0", "192.168.7")
    both.finder.wait_for(online("gate-7", f"192.168.7.2:{PORT}"))
    both.plug("wlan0", "")
    both.third.ip("addr add 10.20.30.3/24 dev wlan0")
    ear = both.ear("wlan0")
    since = time.monotonic()
    for host, number in ((both.here, 1), (both.there, 2)):
        host.ip("link del eth0")
        host.ip(f"addr add 10.20.30.{number}/24 dev wlan0")
    both.noticed(ear, since, "10.20.30.1", "10.20.30.2")
    both.serves(since, f"10.20.30.2:{PORT}")


@pytest.mark.parametrize("duplicates", [False, True])
def test_a_link_with_ipv6_alone(pair: Callable[..., Pair], duplicates: bool) -> None:
    """Also where an address counts only when the kernel has looked for `duplicates` of it, for 1 to 2 s."""
    both = pair(ipv6=True, duplicates=duplicates)
    lan = both.network.switch()
    both.network.plug(both.third, lan)
    ear = both.ear(family="6")
    since = time.monotonic()
    for host in (both.here, both.there):
        both.network.plug(host, lan)
    both.noticed(ear, since, "fe80::", "fe80::")
    said = both.finder.wait_for(lambda said: said.get("state") == "online", ONLINE_SECONDS)
    assert said["at"] - since < ONLINE_SECONDS
    assert said["address"].startswith("[fe80::")
    assert said["address"].endswith(f"%eth0]:{PORT}")
    assert all("%" not in address for address in said["addresses"])


@pytest.mark.long
def test_both_are_suspended_and_wake_on_another_network(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.plug("eth0", "192.168.7")
    both.finder.wait_for(online("gate-7", f"192.168.7.2:{PORT}"))
    ear = both.ear()
    for program in (both.agent, both.finder):
        program.process.send_signal(signal.SIGSTOP)
    for host, number in ((both.here, 1), (both.there, 2)):
        host.ip(f"addr del 192.168.7.{number}/24 dev eth0")
        host.ip(f"addr add 10.20.30.{number}/24 dev eth0")
    time.sleep(Liveness().offline_seconds + 1.0)  # what is tried is that this passes
    since = time.monotonic()
    for program in (both.agent, both.finder):
        program.process.send_signal(signal.SIGCONT)
    both.noticed(ear, since, "10.20.30.1", "10.20.30.2")
    both.serves(since, f"10.20.30.2:{PORT}")


@pytest.mark.long
def test_an_hour_passes_by_the_clock_that_counts_sleep_and_nothing_else_changes(pair: Callable[..., Pair]) -> None:
    """The same addresses may be another network: both speak up, and the device stays online."""
    both = pair("tests.hosts.sleeper")
    both.plug("eth0", "192.168.7")
    both.finder.wait_for(online("gate-7", f"192.168.7.2:{PORT}"))
    ear = both.ear()
    while ear.within(2.0):  # until all that comes of plugging in is over
        pass
    since = time.monotonic()
    for program in (both.agent, both.finder):
        program.process.send_signal(signal.SIGUSR1)
    both.noticed(ear, since, "192.168.7.1", "192.168.7.2")
    assert {said["state"] for said in both.finder.within(ONLINE_SECONDS)} <= {"online"}


def test_a_bridge_that_both_hosts_have_is_not_taken_for_the_device_and_a_new_address_is_found(network: Network, tmp_path: Path) -> None:
    """Another device of the fleet even answers at the address that both have. Then the device's address changes."""
    fleet, lan = TestFleet.open(tmp_path), network.switch()
    here, there = network.host("here", ipv6=False), network.host("there", ipv6=False)
    for host, address in ((here, "192.168.7.1/24"), (there, "192.168.7.2/24")):
        host.bridge("docker0", DOCKER)
        network.plug(host, lan, "eth0", address)
    start_agent(here, fleet, "neighbour")
    start_agent(there, fleet, "gate-7")
    finder = start_finder(here, fleet)
    finder.wait_for(online("gate-7", f"192.168.7.2:{PORT}"))
    there.ip("addr del 192.168.7.2/24 dev eth0")
    there.ip("addr add 192.168.7.9/24 dev eth0")
    finder.wait_for(online("gate-7", f"192.168.7.9:{PORT}"), ONLINE_SECONDS)
