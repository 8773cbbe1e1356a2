"""Machines whose interfaces reach nobody: `doctor` says why, `serve` and `device run` say it in a line and wait."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.network import Host, Network, needs_hosts
from tests.support.processes import wait_for

pytestmark = [pytest.mark.long, needs_hosts]

Prepare = Callable[[Network, Host], None]
HEARD_SECONDS = 40.0


def nothing(network: Network, host: Host) -> None:
    """Loopback alone."""


def down(network: Network, host: Host) -> None:
    network.plug(host, network.switch(), "eth0", "192.168.7.1/24")
    host.ip("link set eth0 down")


def without_multicast(network: Network, host: Host) -> None:
    network.plug(host, network.switch(), "eth0", "192.168.7.1/24")
    host.ip("link set eth0 multicast off")


def without_address(network: Network, host: Host) -> None:
    network.plug(host, network.switch())


def without_carrier(network: Network, host: Host) -> None:
    host.ip("link add eth0 type veth peer name cable")  # whose other end is down
    host.ip("addr add 192.168.7.1/24 dev eth0")
    host.ip("link set eth0 up")


def not_even_loopback(network: Network, host: Host) -> None:
    host.ip("link set lo down")


CASES: list[tuple[Prepare, str]] = [
    (nothing, "there is no network interface but loopback"),
    (down, "eth0 is down"),
    (without_multicast, "eth0 takes no multicast: ip link set eth0 multicast on"),
    (without_address, "eth0 has no address"),
    (without_carrier, "cable is down; eth0 has no carrier: no cable, or no wireless network"),
    (not_even_loopback, "there is no network interface that is up"),
]
cases = pytest.mark.parametrize(("prepare", "why"), CASES, ids=[one.__name__ for one, _ in CASES])


def doctor(host: Host, home: Path) -> dict[str, Any]:
    said = json.loads(host.output(sys.executable, "-m", "fleet.cli", "--home", str(home), "doctor", "--json"))
    (found,) = [check for check in said if check["name"] == "network"]
    return dict(found)


@cases
def test_doctor_says_what_is_wrong_on_which_interface(network: Network, tmp_path: Path, prepare: Prepare, why: str) -> None:
    host = network.host("here", ipv6=False)
    prepare(network, host)
    found = doctor(host, tmp_path / "home")
    where = "no interface" if prepare is not_even_loopback else "lo (127.0.0.1)"
    assert (found["ok"], found["detail"]) == (False, f"mDNS on {where}; {why}")
    assert "noticed within seconds" in found["advice"]


@cases
def test_serve_and_device_run_say_it_in_a_line_and_wait(network: Network, tmp_path: Path, prepare: Prepare, why: str) -> None:
    """When a network comes they find each other, and nobody has to start anything again."""
    desk, board = (network.host(name, ipv6=False) for name in ("desk", "board"))
    for host in (desk, board):
        prepare(network, host)
    desk.start("fleet.cli", "--home", str(tmp_path / "desk"), "serve", "--port", "0")
    board.start("fleet.cli", "--home", str(tmp_path / "board"), "device", "run", "--name", "gate-7")
    for host, says in ((desk, "a network is waited for: "), (board, "which waits for a network: ")):
        wait_for(lambda host=host, says=says: f"{says}{why}\n" in host.log, HEARD_SECONDS)  # type: ignore[misc]
        assert host.log.count(says) == 1
    lan = network.switch()
    for number, host in enumerate((desk, board), 1):
        host.ip("link set lo up")
        network.plug(host, lan, "wlan0", f"10.20.30.{number}/24")
    listing = (sys.executable, "-m", "fleet.cli", "--home", str(tmp_path / "desk"), "devices", "pending", "--json")
    wait_for(lambda: [one["address"] for one in json.loads(desk.output(*listing) or "[]")] == ["10.20.30.2:7420"], HEARD_SECONDS)
