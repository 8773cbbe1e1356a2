"""A network whose cables can be slow, lossy and cut: hosts on a switch of our own (tests.hosts.cables), which makes them so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sim_devices.links import LinkShape
from tests.hosts.network import Host, Network


class Lan:
    """`hosts` get an interface `eth0` each, with the addresses 192.168.7.1, .2 and so on."""

    def __init__(self, network: Network, hosts: Sequence[Host]) -> None:
        self._cables = {host.name: f"cable{number}" for number, host in enumerate(hosts)}
        switch = network.host("switch")
        self._switch = switch.start("tests.hosts.cables", *self._cables.values())
        self._switch.wait_for(lambda said: "switches" in said)
        for number, host in enumerate(hosts, 1):
            switch.ip(f"link set {self._cables[host.name]} netns {host.namespace} name eth0")
            host.ip(f"addr add 192.168.7.{number}/24 dev eth0")
            host.ip("link set eth0 up")

    def shape(self, shape: LinkShape, *hosts: Host) -> None:
        """Of what comes from these hosts from now on."""
        for host in hosts:
            self._tell(host, shape=asdict(shape))

    def cut(self, host: Host) -> None:
        """Nothing passes, and nobody is told: as if it were cut behind another switch."""
        self._tell(host, cut=True)

    def guard(self, host: Host) -> None:
        """As behind NAT or a firewall: it reaches others over TCP, and nobody reaches it but in answer; nothing of mDNS passes."""
        self._tell(host, guarded=True)

    def mend(self, host: Host) -> None:
        self._tell(host, cut=False)

    def _tell(self, host: Host, **facts: object) -> None:
        cable = self._cables[host.name]
        self._switch.tell(cable=cable, **facts)
        self._switch.wait_for(lambda said: said.get("cable") == cable)
