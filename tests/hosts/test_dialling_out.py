"""A board behind NAT: it reaches the coordinator's host, and nobody reaches it. It dials out, and serves all the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.hosts.commands import Commands
from tests.hosts.lan import Lan
from tests.hosts.network import Network, needs_hosts
from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.processes import wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(300), needs_hosts]  # some fifteen commands, each a process
DIAL = "import socket; socket.create_connection(('192.168.7.3', 7420), 1.5); print('reached')"


def test_a_board_that_nobody_can_dial_joins_and_serves_a_stage(network: Network, tmp_path: Path) -> None:
    hosts = [network.host(name, ipv6=False) for name in ("desk", "gate-7", "hidden")]
    lan = Lan(network, hosts)
    lan.guard(hosts[2])
    desk, seven, hidden = (Commands(host, tmp_path / host.name) for host in hosts)
    desk.serve("--host", "0.0.0.0", "--relay-port", "0")
    at = desk.port
    seven.board("--token", desk.json("devices", "token")["token"])
    hidden.board("--coordinator", f"192.168.7.1:{at}", "--token", desk.json("devices", "token")["token"])
    wait_for(lambda: {one["name"]: one["state"] for one in desk.json("devices")} == {"gate-7": "online", "hidden": "online"}, 30)
    assert {one["name"]: one["found_by"] for one in desk.json("devices")}["hidden"] == "relay"
    assert "reached" not in hosts[0].output(sys.executable, "-c", DIAL)
    assert "reached" not in hosts[1].output(sys.executable, "-c", DIAL)

    # One end of each hop is the hidden board, whichever is the head.
    desk("model", "import", write_checkpoint(tmp_path / "checkpoint", TinyGlm(layers=4)), "--name", "tiny")
    answers = []
    for devices in ("gate-7", "gate-7,hidden"):
        count = len(devices.split(","))
        deployed = desk.json("deploy", "tiny", "--stages", count, "--context", 128, "--devices", devices)
        assert len(deployed["stages"]) == count
        answers.append(desk.json("generate", "--raw", "hello there", "--max-tokens", 12)["token_ids"])
    assert answers[0] == answers[1]
    assert len(answers[0]) == 12
    why = desk.json("plan", "tiny", "--stages", 2)["why"]
    assert [line for line in why if line.startswith("relayed: what is sent to hidden passes through the coordinator")]
