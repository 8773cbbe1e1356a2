from __future__ import annotations

import pytest

from protos.net.addresses import address_of, dialable, joined_address, without_zone


def test_addresses_as_text() -> None:
    assert joined_address("192.168.1.20", 7420) == "192.168.1.20:7420"
    assert joined_address("fd00::20", 7420) == "[fd00::20]:7420"
    assert joined_address("[fd00::20]", 7420) == "[fd00::20]:7420"
    assert without_zone("[fe80::1%eth0]:7420") == "[fe80::1]:7420"
    assert without_zone("host:7420") == "host:7420"


def test_a_link_local_address_is_dialled_through_every_interface() -> None:
    told = ("10.0.0.2:1", "[fe80::2]:1", "[fd00::2]:1", "[fe80::3%wlan0]:1", "host:1")
    assert dialable(told, ["eth0", "wlan0"]) == (
        "10.0.0.2:1",
        "[fe80::2%eth0]:1",
        "[fe80::2%wlan0]:1",
        "[fd00::2]:1",
        "[fe80::3%wlan0]:1",
        "host:1",
    )
    assert all("%" in address for address in dialable(["[fe80::2]:1"]))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("desk", "desk:7400"),
        (" desk:1 ", "desk:1"),
        ("https://desk:1/", "desk:1"),
        ("192.168.7.1", "192.168.7.1:7400"),
        ("fd00::7", "[fd00::7]:7400"),
        ("[fd00::7]", "[fd00::7]:7400"),
        ("[fd00::7]:1", "[fd00::7]:1"),
        ("::1", "[::1]:7400"),
    ],
)
def test_an_address_as_people_write_it(written: str, meant: str) -> None:
    assert address_of(written, 7400) == meant
