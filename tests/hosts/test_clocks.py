"""Boards whose wall clocks are wrong, as those without a battery behind them are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.commands import Commands, fleet_of
from tests.hosts.lan import Lan
from tests.hosts.network import Network, needs_clocks, needs_hosts
from tests.support.checkpoints import TinyGlm, write_checkpoint
from tests.support.processes import wait_for

pytestmark = [pytest.mark.long, needs_hosts, needs_clocks]


def test_boards_join_and_serve_by_clocks_that_their_certificates_bear(network: Network, tmp_path: Path) -> None:
    """One is an hour ahead, one behind by less than certificates allow for."""
    hosts = [network.host(name, ipv6=False, clock=clock) for name, clock in (("desk", ""), ("gate-7", "+1h"), ("gate-9", "-4m"))]
    Lan(network, hosts)
    clocks = [int(host.output("date", "+%s")) for host in hosts]
    assert [round((clock - clocks[0]) / 60) for clock in clocks] == [0, 60, -4]
    desk, *boards = (Commands(host, tmp_path / host.name) for host in hosts)
    fleet_of(desk, boards)
    desk("model", "import", write_checkpoint(tmp_path / "checkpoint", TinyGlm(layers=2)), "--name", "tiny")
    desk("deploy", "tiny", "--stages", 2, "--context", 64)
    assert len(desk.json("generate", "--raw", "hello there", "--max-tokens", 8)["token_ids"]) == 8


def test_a_board_that_is_days_behind_is_told_of_its_clock(network: Network, tmp_path: Path) -> None:
    hosts = [network.host("desk", ipv6=False), network.host("gate-7", ipv6=False, clock="-3d")]
    Lan(network, hosts)
    desk, board = (Commands(host, tmp_path / host.name) for host in hosts)
    desk.serve()
    board.board("--token", desk.json("devices", "token")["token"])
    wait_for(lambda: "the certificate is valid from" in hosts[0].log, 30)
    assert "gate-7 at 192.168.7.2:7420" in hosts[0].log
    assert desk.json("devices") == []
