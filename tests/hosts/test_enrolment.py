"""Three hosts from empty homes: a coordinator and two boards that belong to no fleet, one taken in by hand and one by a token."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.commands import Commands
from tests.hosts.network import Network, needs_hosts
from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.processes import wait_for

pytestmark = needs_hosts


@pytest.mark.long
def test_boards_with_empty_homes_join_and_serve_a_model_together(network: Network, tmp_path: Path) -> None:
    lan = network.switch()
    hosts = [network.host(name, ipv6=False) for name in ("desk", "gate-7", "gate-9")]
    for number, host in enumerate(hosts, 1):
        network.plug(host, lan, "eth0", f"192.168.7.{number}/24")
    desk, seven, nine = (Commands(host, tmp_path / host.name) for host in hosts)
    desk.serve()
    seven.board()  # named as its host
    wait_for(lambda: desk.json("devices", "pending") != [], 20)

    [asking] = desk.json("devices", "pending")
    assert (asking["name"], asking["address"]) == ("gate-7", "192.168.7.2:7420")
    assert asking["fingerprint"] in hosts[1].log
    desk("devices", "accept", asking["fingerprint"])
    nine.board("--token", desk.json("devices", "token")["token"])
    wait_for(lambda: {one["name"]: one["state"] for one in desk.json("devices")} == {"gate-7": "online", "gate-9": "online"}, 20)
    assert desk.json("devices", "pending") == []

    desk("model", "import", write_checkpoint(tmp_path / "checkpoint", TinyGlm(layers=4)), "--name", "tiny")
    answers = []
    for stages in (1, 2):
        deployed = desk.json("deploy", "tiny", "--stages", stages, "--context", 128)
        assert len(deployed["stages"]) == stages
        answers.append(desk.json("generate", "--raw", "hello there", "--max-tokens", 12)["token_ids"])
    assert answers[0] == answers[1]
    assert len(answers[0]) == 12


@pytest.mark.long
def test_a_board_on_a_link_with_ipv6_alone_asks_to_join(network: Network, tmp_path: Path) -> None:
    """Its address is one of the link, and counts only with the interface through which it is dialled."""
    lan, desk, board = network.switch(), network.host("desk"), network.host("gate-7")
    for host in (desk, board):
        network.plug(host, lan)
    here, there = Commands(desk, tmp_path / "desk"), Commands(board, tmp_path / "board")
    here.serve()
    there.board()
    wait_for(lambda: here.json("devices", "pending") != [], 20)
    here("devices", "accept", "gate-7")
    wait_for(lambda: [one["state"] for one in here.json("devices")] == ["online"], 20)
