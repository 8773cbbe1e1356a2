"""Over a network: a laptop logs in at the coordinator, and a board that mDNS does not reach joins by calling it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hosts.commands import Commands
from tests.hosts.network import Network, needs_hosts
from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.processes import wait_for

pytestmark = [pytest.mark.long, needs_hosts]


def test_a_laptop_logs_in_and_a_board_behind_a_router_joins(network: Network, tmp_path: Path) -> None:
    """Desk and laptop are on one network, the board on another: a router between them passes no multicast on."""
    here, there = network.switch(), network.switch()
    desk_host, laptop_host, board_host, router = (network.host(name, ipv6=False) for name in ("desk", "laptop", "gate-7", "router"))
    network.plug(desk_host, here, "eth0", "192.168.7.1/24")
    network.plug(laptop_host, here, "eth0", "192.168.7.2/24")
    network.plug(board_host, there, "eth0", "10.0.9.7/24")
    network.plug(router, here, "eth0", "192.168.7.254/24")
    network.plug(router, there, "eth1", "10.0.9.254/24")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    for host, way in ((desk_host, "192.168.7.254"), (laptop_host, "192.168.7.254"), (board_host, "10.0.9.254")):
        host.ip(f"route add default via {way}")
    desk, laptop, board = (Commands(host, tmp_path / host.name) for host in (desk_host, laptop_host, board_host))

    server = desk_host.start("fleet.cli", "--home", str(desk.home), "serve", "--host", "0.0.0.0", "--port", "7400")
    wait_for(lambda: "fingerprint" in server.log.read_text(), 60)
    words = server.log.read_text().partition("to be compared there: ")[2].splitlines()[0]
    assert "glmfleet login 192.168.7.1:7400" in server.log.read_text()
    code = desk("keys", "create", "ann", "--role", "admin", "--login").strip()
    laptop("login", code)
    assert laptop.json("devices") == []

    token = laptop.json("devices", "token")["token"]
    board_host.start("fleet.cli", "--home", str(board.home), "device", "join", "192.168.7.1", "--token", token, "--name", "gate-7")
    wait_for(lambda: [one["state"] for one in laptop.json("devices")] == ["online"], 60)
    [view] = laptop.json("devices")
    assert (view["name"], view["address"], view["found_by"]) == ("gate-7", "10.0.9.7:7420", "join")

    desk("model", "import", write_checkpoint(tmp_path / "checkpoint", TinyGlm(layers=4)), "--name", "tiny")
    laptop("deploy", "tiny", "--context", 128)
    answer = laptop.json("generate", "--raw", "hello there", "--max-tokens", 12)["token_ids"]
    assert len(answer) == 12
    assert answer == desk.json("generate", "--raw", "hello there", "--max-tokens", 12)["token_ids"]

    entries = laptop.json("audit", "show")
    told = {(one["who"], one["call"]) for one in entries if one["outcome"] == "done"}
    assert told >= {("local", "new_key"), ("ann", "new_token"), ("coordinator", "board joined"), ("ann", "deploy")}
    assert "hello there" not in json.dumps(entries)
    laptop("audit", "verify")

    # With a key of its own it sees and does less; by the words it needs no code.
    laptop("logout")
    key = desk("keys", "create", "bob", "--role", "viewer").strip()
    laptop("login", "192.168.7.1", "--key", key, "--fleet", words)
    assert laptop.json("devices")[0]["name"] == "gate-7"
    assert "may not deploy" in laptop.fails("undeploy", "tiny")
