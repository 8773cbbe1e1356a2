"""Which addresses of which interfaces mDNS is spoken on, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace

from protos.net.interfaces import Adapter, Interface, read_adapters, survey, why_alone

LO = Adapter("lo", 1, "up", loopback=True, addresses=(Interface("127.0.0.1", 8, "lo", 1), Interface("::1", 128, "lo", 1)))


def adapter(name: str, index: int, *addresses: str, state: str = "up", bridged: bool = False) -> Adapter:
    found = tuple(Interface(text, 64 if ":" in text else 24, name, index) for text in addresses)
    return Adapter(name, index, state, bridged=bridged, addresses=found)  # type: ignore[arg-type]


def willing(_one: Interface) -> str | None:
    return None


def usable(*adapters: Adapter, asked: list[str] | None = None) -> list[str]:
    return [one.address for one in survey(adapters, asked, willing).usable]


def test_every_ipv4_address_and_one_for_ipv6_of_each_interface() -> None:
    eth = adapter("eth0", 2, "192.168.7.2", "10.0.0.2", "fd00::2", "fe80::2")
    wlan = adapter("wlan0", 3, "fe80::3")
    assert usable(wlan, eth, LO) == ["127.0.0.1", "192.168.7.2", "10.0.0.2", "fd00::2", "fe80::3"]
    found = survey((LO, eth), None, willing)
    assert [one.address for one in found.asked] == ["127.0.0.1", "::1", "192.168.7.2", "10.0.0.2", "fd00::2", "fe80::2"]
    assert not found.alone


def test_an_interface_is_asked_for_by_name_or_by_address() -> None:
    eth, wlan = adapter("eth0", 2, "192.168.7.2", "10.0.0.2"), adapter("wlan0", 3, "192.168.8.3")
    assert usable(LO, eth, wlan, asked=["eth0"]) == ["192.168.7.2", "10.0.0.2"]
    assert usable(LO, eth, wlan, asked=["10.0.0.2", "wlan0"]) == ["10.0.0.2", "192.168.8.3"]
    assert usable(LO, eth, wlan, asked=[]) == []


def test_what_is_not_there_is_told_until_it_comes() -> None:
    eth = adapter("eth0", 2, "192.168.7.2")
    (problem,) = survey((LO, eth), ["eth1", "127.0.0.1"], willing).problems
    assert "eth1" in problem
    (problem,) = survey((LO, eth), ["192.168.7.3"], willing).problems
    assert "192.168.7.3" in problem
    assert survey((LO, eth), ["192.168.7.2"], willing).problems == ()


def test_interfaces_without_a_network_are_named_with_the_reason() -> None:
    adapters = (
        LO,
        adapter("eth0", 2, "192.168.7.2", state="down"),
        adapter("docker0", 3, "172.17.0.1", state="no carrier"),
        adapter("wlan0", 4),
        adapter("veth1", 5, "fe80::5", bridged=True),
    )
    found = survey(adapters, None, willing)
    assert [one.address for one in found.usable] == ["127.0.0.1"]
    assert found.alone
    assert [line.split()[0] for line in found.mute] == ["eth0", "docker0", "wlan0"]
    assert ["is down" in found.mute[0], "no carrier" in found.mute[1], "no address" in found.mute[2]] == [True] * 3
    assert len(found.own) == 4  # whose addresses these are does not depend on a cable
    assert survey(adapters[:-1], None, willing) == found  # a container that starts or ends is no change of the network


def test_an_interface_that_takes_no_multicast_is_named_and_its_addresses_count() -> None:
    """The kernel sends there without a word, and nobody hears us."""
    eth, wg = adapter("eth0", 2, "192.168.7.2"), replace(adapter("wg0", 3, "10.8.0.2", "fd00::3"), multicast=False)
    found = survey((LO, eth, wg), None, willing)
    assert [one.address for one in found.usable] == ["127.0.0.1", "192.168.7.2"]
    assert found.mute == ("wg0 takes no multicast: ip link set wg0 multicast on",)
    assert [one.address for one in found.asked][-2:] == ["10.8.0.2", "fd00::3"]
    assert survey((replace(LO, multicast=False),), None, willing).mute == ()  # as loopback is on every Linux


def test_that_nobody_hears_us_is_news_unless_it_was_asked_for() -> None:
    down, refused = adapter("eth0", 2, "192.168.7.2", state="down"), adapter("eth0", 2, "192.168.7.2")
    assert survey((LO,), None, willing).waits(None)
    assert survey((), None, willing).waits(None)
    assert survey((LO, down), ["eth0"], willing).waits(["eth0"])
    assert not survey((LO,), ["127.0.0.1"], willing).waits(["127.0.0.1"])
    assert not survey((LO,), [], willing).waits([])  # no mDNS at all
    assert not survey((LO, adapter("eth0", 2, "192.168.7.2")), None, willing).waits(None)
    assert not survey((LO, refused), None, lambda one: "no" if one.name == "eth0" else None).waits(None)  # a problem says it
    assert why_alone((), loopback=False) == "there is no network interface that is up"


def test_what_the_kernel_refuses_is_told_and_the_others_serve() -> None:
    eth, tun = adapter("eth0", 2, "192.168.7.2"), adapter("tun0", 3, "10.8.0.2")
    found = survey((LO, eth, tun), None, lambda one: f"no multicast on {one}" if one.name == "tun0" else None)
    assert [one.address for one in found.usable] == ["127.0.0.1", "192.168.7.2"]
    assert found.problems == ("no multicast on tun0 (10.8.0.2)",)
    assert "10.8.0.2" in [one.address for one in found.asked]  # others may reach it there all the same


def test_this_machine_has_loopback() -> None:
    found = [one for one in read_adapters() if one.loopback]
    assert len(found) == 1
    assert found[0].state == "up"
    assert "127.0.0.1" in [one.address for one in found[0].addresses]
