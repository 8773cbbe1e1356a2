"""The network that tests measure on: that its switch is quick where it shapes nothing, and shapes what it says it does."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sim_devices.links import WIRE, LinkShape
from tests.hosts.lan import Lan
from tests.hosts.network import Host, Network, needs_hosts

pytestmark = [pytest.mark.long, needs_hosts]

LEAST_BITS = 300e6
MOST_ADDED_SECONDS = 0.0002  # one way
THERE = "192.168.7.2"


@dataclass(frozen=True)
class Way:
    network: Network
    here: Host
    there: Host
    lan: Lan

    def measured(self, what: str, amount: float, address: str = THERE) -> dict[str, Any]:
        return self.here.start("tests.hosts.probe", what, address, f"{amount:g}").wait_for(bool, 30)


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with Network(tmp_path_factory.mktemp("logs")) as network:
        here, there = network.host("desk"), network.host("gate-7")
        lan = Lan(network, [here, there])
        there.start("tests.hosts.probe", "answer").wait_for(lambda said: "answers" in said)
        yield Way(network, here, there, lan)


def test_it_carries_what_gigabit_boards_send_and_adds_next_to_nothing(way: Way) -> None:
    """Set against a bridge of the kernel between the same two hosts; the best of three, as others compute here too."""
    bridge = way.network.switch()
    for number, host in enumerate((way.here, way.there), 1):
        way.network.plug(host, bridge, "eth1", f"10.20.30.{number}/24")
    added = [(way.measured("delay", 200)["seconds"] - way.measured("delay", 200, "10.20.30.2")["seconds"]) / 2 for _ in range(3)]
    assert min(added) < MOST_ADDED_SECONDS
    assert max(way.measured("rate", 1.0)["bits_per_second"] for _ in range(3)) >= LEAST_BITS


def test_delay_and_jitter_are_what_was_asked_for(way: Way) -> None:
    """Late is who waits for a core; the switch itself is never early."""
    for shape in (LinkShape(delay_seconds=0.005), LinkShape(delay_seconds=0.005, jitter_seconds=0.002)):
        way.lan.shape(shape, way.here, way.there)
        found = [way.measured("delay", 60) for _ in range(3)]
        assert min(each["seconds"] for each in found) == pytest.approx(0.010, abs=0.001)
        assert min(each["least"] for each in found) >= 2 * (shape.delay_seconds - shape.jitter_seconds)
    way.lan.shape(WIRE, way.here, way.there)


def test_rate_and_loss_are_what_was_asked_for(way: Way) -> None:
    """Of TCP's payload a frame of 1,514 bytes carries 1,448."""
    way.lan.shape(LinkShape(rate_bits_per_second=50e6), way.here)
    found = statistics.median(way.measured("rate", 1.0)["bits_per_second"] for _ in range(3))
    assert found == pytest.approx(50e6 * 1448 / 1514, rel=0.1)
    way.lan.shape(LinkShape(loss=0.1), way.here)
    assert way.measured("loss", 3000)["lost"] == pytest.approx(0.1, abs=0.03)
    way.lan.shape(WIRE, way.here, way.there)


def test_a_cable_is_cut_and_mended(way: Way) -> None:
    way.lan.cut(way.there)
    assert way.measured("loss", 20)["lost"] == 1
    way.lan.mend(way.there)
    assert way.measured("loss", 20)["lost"] == 0


def test_hosts_have_names_of_their_own(way: Way) -> None:
    assert [host.output("hostname").strip() for host in (way.here, way.there)] == ["desk", "gate-7"]
