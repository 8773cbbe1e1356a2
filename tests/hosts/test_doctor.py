"""`glmfleet doctor` where the coordinator runs and on a board: firewalls, clocks, fleets and multicast between real machines."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.commands import Commands
from tests.hosts.network import Host, Network, needs_hosts
from tests.support.processes import wait_for

pytestmark = [
    pytest.mark.long,
    needs_hosts,
    pytest.mark.skipif(shutil.which("iptables") is None, reason="the command `iptables` is missing"),
]


def drop(host: Host, *rule: str) -> None:
    """Raises CalledProcessError where the kernel has no filter."""
    host.run("iptables", "-A", "INPUT", *rule, "-j", "DROP")


def doctor(host: Host, home: Path) -> dict[str, dict[str, Any]]:
    said = json.loads(host.output(sys.executable, "-m", "fleet.cli", "--home", str(home), "doctor", "--json"))
    return {one["name"]: one for one in said}


class Desk:
    """A coordinator, and boards that it has taken in."""

    def __init__(self, network: Network, folder: Path, boards: int) -> None:
        lan = network.switch()
        self.folder = folder
        self.host = network.host("desk", ipv6=False)
        self.boards = [network.host(f"gate-{number}", ipv6=False) for number in range(1, boards + 1)]
        for number, host in enumerate([self.host, *self.boards], 1):
            network.plug(host, lan, "eth0", f"192.168.7.{number}/24")
        self.commands = Commands(self.host, folder / "desk")
        self.host.start("fleet.cli", "--home", str(self.commands.home), "serve", "--port", "0")
        wait_for(lambda: (self.commands.home / "coordinator.json").exists(), 30)
        for host in self.boards:
            Commands(host, folder / host.name).board("--name", host.name, "--token", self.commands.json("devices", "token")["token"])
        wait_for(lambda: self.states() == dict.fromkeys((host.name for host in self.boards), "online"), 40)

    def states(self) -> dict[str, str]:
        return {one["name"]: one["state"] for one in self.commands.json("devices")}

    def look(self) -> dict[str, dict[str, Any]]:
        return doctor(self.host, self.commands.home)

    def look_at(self, board: Host) -> dict[str, dict[str, Any]]:
        return doctor(board, self.folder / board.name)


def test_a_firewall_is_told_from_an_agent_that_has_ended_and_from_a_board_that_is_off(network: Network, tmp_path: Path) -> None:
    desk = Desk(network, tmp_path, 3)
    fine = desk.look()
    assert [fine[name]["level"] for name in ("clocks", "certificates", "versions", "multicast")] == ["ok"] * 4
    assert "both ways with 3 devices, on lo (127.0.0.1), eth0 (192.168.7.1)" in fine["multicast"]["detail"]
    walled, ended, off = desk.boards
    drop(walled, "-p", "tcp", "--dport", "7420")
    ended.programs[0].process.kill()  # without a goodbye, after which it would be forgotten
    off.ip("link set eth0 down")
    wait_for(lambda: set(desk.states().values()) == {"offline"}, 60)
    found = desk.look()
    assert "it answers to mDNS, so it is a firewall" in found["device gate-1"]["detail"]
    assert "TCP port 7420" in found["device gate-1"]["advice"]
    assert "nobody listens on that port" in found["device gate-2"]["detail"]
    assert found["device gate-2"]["advice"] == "start the agent there: glmfleet device run"
    # For some tens of seconds the kernel takes it that the machine is still there.
    assert "so it is a firewall" not in found["device gate-3"]["detail"]
    wait_for(lambda: "no machine has that address now" in desk.look()["device gate-3"]["detail"], 90)
    here = desk.look_at(ended)
    assert (here["agent"]["level"], here["agent"]["advice"]) == ("fail", "start it: glmfleet device run")
    assert here["fleet"]["level"] == here["certificate"]["level"] == "ok"


def test_multicast_that_gets_through_one_way_only_is_said_on_both_sides(network: Network, tmp_path: Path) -> None:
    desk = Desk(network, tmp_path, 2)
    deaf, mute = desk.boards
    wait_for(lambda: desk.look_at(mute)["coordinator"]["level"] == "ok", 20)  # the agent notes it every few seconds
    board = desk.look_at(mute)
    assert board["publishers"]["level"] == board["certificate"]["level"] == "ok"
    assert board["multicast"]["ok"]
    desk.look()
    wait_for(lambda: "on eth0 192.168.7.1" in desk.look_at(mute)["multicast"]["detail"], 20)
    drop(deaf, "-p", "udp", "--dport", "5353")
    drop(desk.host, "-p", "udp", "--dport", "5353", "-s", "192.168.7.3")
    found = desk.look()
    assert [found[f"device {board.name}"]["ok"] for board in desk.boards] == [True, True]  # they are connected all the same
    assert found["multicast of gate-1"]["level"] == "warn"
    assert "it did not hear what was asked on" in found["multicast of gate-1"]["detail"]
    assert "it hears us (on its eth0), and its answer does not get here" in found["multicast of gate-2"]["detail"]
    assert "--seed 192.168.7.3:7420" in found["multicast of gate-2"]["advice"]


def test_a_clock_that_is_wrong_is_measured_over_the_network(network: Network, tmp_path: Path) -> None:
    desk = Desk(network, tmp_path, 1)
    board, state = desk.boards[0], tmp_path / "gate-1" / "device"
    board.programs[0].end()
    skewed = ("--state", str(state), "--name", "gate-1", "--profile", "rk3588", "--interface", "192.168.7.2", "--clock-skew=200")
    board.start("sim_devices", *skewed)
    wait_for(lambda: [one["simulated"] for one in desk.commands.json("devices") if one["state"] == "online"] == [True], 40)
    found = desk.look()["clock of gate-1"]
    assert (found["level"], found["detail"]) == ("warn", "3 min ahead of this machine's")
    assert desk.host.output(sys.executable, "-m", "fleet.cli", "--home", str(desk.commands.home), "doctor").count("clock of gate-1") == 1


def test_a_board_of_no_fleet_says_how_it_gets_into_one(network: Network, tmp_path: Path) -> None:
    board = network.host("gate-7", ipv6=False)
    network.plug(board, network.switch(), "eth0", "192.168.7.2/24")
    board.start("fleet.cli", "--home", str(tmp_path / "home"), "device", "run", "--name", "gate-7")
    wait_for(lambda: "its fingerprint:" in board.log, 30)
    found = doctor(board, tmp_path / "home")
    fingerprint = next(line for line in board.log.splitlines() if "its fingerprint:" in line).partition("fingerprint: ")[2]
    assert found["fleet"]["level"] == "fail"
    assert fingerprint in found["fleet"]["detail"]
    assert found["fleet"]["advice"].startswith("where the coordinator runs: glmfleet devices accept ")
    assert found["agent"]["level"] == "ok"
