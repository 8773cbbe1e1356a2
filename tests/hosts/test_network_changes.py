"""Finding devices on networks that are not as one would wish: hosts of their own, real interfaces, real mDNS."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.hosts.network import Host, Network, Program, needs_hosts
from tests.support.members import TestFleet

pytestmark = needs_hosts

PORT = "7420"
DOCKER = "172.17.0.1/16"
NOTICED_SECONDS = 10.0  # a change of the network and what comes of it: about 3 s, on a machine that does other things besides


def online(name: str, address: str):
    return lambda said: (said.get("device"), said.get("state"), said.get("address")) == (name, "online", address)


def start_agent(host: Host, fleet: TestFleet, name: str) -> Program:
    fleet.member(name)
    return host.start("device", "--state", str(fleet.folder / name), "--name", name, "--port", PORT)


def start_finder(host: Host, fleet: TestFleet) -> Program:
    fleet.member("me", "coordinator")
    return host.start("tests.hosts.finder", str(fleet.folder / "me"))


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
    finder.wait_for(online("gate-7", f"192.168.7.9:{PORT}"), NOTICED_SECONDS)


def test_both_start_before_the_network_which_has_ipv6_alone(network: Network, tmp_path: Path) -> None:
    fleet, lan, here, there = TestFleet.open(tmp_path), network.switch(), network.host("here"), network.host("there")
    agent = start_agent(there, fleet, "gate-7")
    finder = start_finder(here, fleet)
    agent.wait_for(lambda said: "address" in said)
    assert finder.wait_for(lambda said: "interfaces" in said)["interfaces"] == ["127.0.0.1"]
    for host in (here, there):
        network.plug(host, lan)
    said = finder.wait_for(lambda said: said.get("state") == "online", NOTICED_SECONDS)
    assert said["address"].startswith("[fe80::")
    assert said["address"].endswith(f"%eth0]:{PORT}")
    assert all("%" not in address for address in said["addresses"])


def test_doctor_names_the_interface_that_is_down(network: Network, tmp_path: Path) -> None:
    host = network.host("here")
    network.plug(host, network.switch(), "eth0", "192.168.7.1/24")
    host.ip("link set eth0 down")
    said = json.loads(host.output(sys.executable, "-m", "fleet.cli", "doctor", "--json", "--home", str(tmp_path / "home")))
    (found,) = [check for check in said if check["name"] == "network"]
    assert (found["ok"], found["detail"]) == (False, "mDNS on lo (127.0.0.1); eth0 is down")
