from __future__ import annotations

from pathlib import Path

import pytest

from protos.errors import InvalidInput, NotFound
from sim_devices.fleet_file import gallery, gallery_text, load_fleet, load_scenario, parse_fleet
from sim_devices.links import WIRE

FILE = """
description = "two lamps and a gateway"
seed = 7
pace = "realtime"

[[devices]]
name = "lamp"
profile = "rk3588"
count = 2
memory = "2GiB"
ambient = 35.5
labels = { site = "street", "role" = "lamp" }

[[devices]]
name = "gateway"
profile = "raspberry-pi-5"
pace = "fast"

[[links]]
between = ["*", "*"]
delay = "20ms"
jitter = "5ms"
rate = "10mbit"
loss = "1%"

[[links]]
from = "coordinator"
to = "lamp-*"

[[faults]]
at = "10s..60s"
do = "kill one:lamp-*"
for = "20s"
"""
DEVICE = '[[devices]]\nname = "a"\nprofile = "rk3588"\n'


def test_a_fleet_as_it_is_written() -> None:
    fleet = parse_fleet("FLEET.toml", FILE)
    assert [(device.name, device.profile, device.pace, device.memory_bytes) for device in fleet.devices] == [
        ("lamp-1", "rk3588", "realtime", 2 << 30),
        ("lamp-2", "rk3588", "realtime", 2 << 30),
        ("gateway", "raspberry-pi-5", "fast", None),
    ]
    assert [device.ambient_celsius for device in fleet.devices] == [35.5, 35.5, None]
    assert fleet.devices[0].labels == {"site": "street", "role": "lamp"}
    assert (fleet.seed, fleet.description) == (7, "two lamps and a gateway")
    assert fleet.shape("lamp-1", "coordinator").text == "delay 20ms 5ms rate 10mbit loss 1%"
    assert fleet.shape("coordinator", "lamp-1") == WIRE
    (fault,) = fleet.faults
    assert (fault.fault.text, fault.earliest_seconds, fault.latest_seconds, fault.for_seconds) == ("kill one:lamp-*", 10, 60, 20)


def test_a_zero_is_what_was_written() -> None:
    zeros = 'ambient = 0\n[[links]]\nbetween = ["*", "*"]\ndelay = "0ms"\nloss = "0%"\n[[faults]]\nat = "0s"\ndo = "overheat a 0"'
    fleet = parse_fleet("FLEET.toml", f"seed = 0\n{DEVICE}{zeros}")
    assert (fleet.seed, fleet.devices[0].ambient_celsius, fleet.faults[0].earliest_seconds, fleet.faults[0].fault.value) == (0, 0, 0, 0)
    for meaningless in ('memory = "0"', 'memory = "1.5"', "count = 0"):
        with pytest.raises(InvalidInput, match=meaningless.split()[0]):
            parse_fleet("FLEET.toml", f"{DEVICE}{meaningless}")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("seed = ", "not TOML"),
        ("", "0 devices"),
        ("[[device]]", "unknown key 'device'"),
        ("devices = 3", "devices is '3'"),
        (DEVICE + DEVICE, "two devices are called 'a'"),
        (DEVICE + "count = 0", r"devices\[1\].count"),
        (DEVICE + "count = true", r"devices\[1\].count"),
        (DEVICE + "count = 257", r"devices\[1\].count"),
        (DEVICE + "[[devices]]\nname = 'b'\nprofile = 'rk3588'\ncount = 256", "257 devices"),
        (DEVICE + "memory = 4", r"devices\[1\].memory"),
        (DEVICE + "memory = '4 elephants'", r"devices\[1\].memory"),
        (DEVICE + "pace = 'slow'", r"devices\[1\].pace"),
        (DEVICE + "timing = 'guessed'", r"devices\[1\].timing"),
        (DEVICE + "dialect = 'klingon'", r"devices\[1\].dialect"),
        (
            "[[devices]]\nname = 'a'\nprofile = 'raspberry-pi-5'\ntiming = 'compiled'",
            r"devices\[1\]: profile raspberry-pi-5: it names no chip",
        ),
        (DEVICE + "ambient = nan", r"devices\[1\].ambient"),
        (DEVICE + "ambient = 'hot'", r"devices\[1\].ambient"),
        (DEVICE + "colour = 'red'", r"unknown key 'devices\[1\].colour'"),
        (DEVICE + "labels = { 'a b' = 'c' }", r"devices\[1\].labels.a b"),
        (DEVICE + "labels = { a = 1 }", r"devices\[1\].labels.a"),
        (DEVICE + "labels = 3", r"devices\[1\].labels"),
        ("[[devices]]\nprofile = 'rk3588'", r"devices\[1\].name is missing"),
        ("[[devices]]\nname = 'a'", r"devices\[1\].profile is missing"),
        ("[[devices]]\nname = 'Lamp'\nprofile = 'rk3588'", r"devices\[1\].name"),
        ("[[devices]]\nname = '../x'\nprofile = 'rk3588'", r"devices\[1\].name"),
        ("[[devices]]\nname = 'coordinator'\nprofile = 'rk3588'", r"devices\[1\].name"),
        (f"[[devices]]\nname = '{'a' * 39}'\nprofile = 'rk3588'\ncount = 2", r"devices\[1\].name"),
        ("[[devices]]\nname = 'a'\nprofile = 'nope'", r"devices\[1\]: no profile 'nope'"),
        ("[[devices]]\nname = 'a'\nprofile = './nope.toml'", r"devices\[1\]: cannot read profile"),
        (DEVICE + "[[links]]", r"links\[1\]"),
        (DEVICE + "[[links]]\nbetween = ['a']", r"links\[1\].between"),
        (DEVICE + "[[links]]\nbetween = ['a', 'b']", r"links\[1\]: no device 'b'"),
        (DEVICE + "[[links]]\nfrom = 'a'", r"links\[1\].to"),
        (DEVICE + "[[links]]\nbetween = ['a', '*']\nfrom = 'a'", r"unknown key 'links\[1\].from'"),
        (DEVICE + "[[links]]\nbetween = ['a', '*']\ndelay = '2m'", r"links\[1\].delay"),
        (DEVICE + "[[links]]\nbetween = ['a', '*']\ndelay = 20", r"links\[1\].delay"),
        (DEVICE + "[[links]]\nbetween = ['a', '*']\njitter = '1ms'", r"links\[1\]: jitter"),
        (DEVICE + "[[links]]\nbetween = ['a', '*']\nrate = '10mbps'", r"links\[1\].rate"),
        (DEVICE + "[[links]]\nbetween = ['a', '*']\nloss = '100%'", r"links\[1\].loss"),
        (DEVICE + "[[faults]]\nat = '1s'", r"faults\[1\].do"),
        (DEVICE + "[[faults]]\ndo = 'kill a'", r"faults\[1\].at"),
        (DEVICE + "[[faults]]\ndo = 'kill a'\nat = '9s..1s'", r"faults\[1\].at"),
        (DEVICE + "[[faults]]\ndo = 'kill a'\nat = '9s'\nfor = '0s'", r"faults\[1\].for"),
        (DEVICE + "[[faults]]\ndo = 'kill b'\nat = '9s'", r"faults\[1\]: no device 'b'"),
        (DEVICE + "[[faults]]\ndo = 'explode a'\nat = '9s'", r"faults\[1\]: not a fault"),
        (DEVICE + "[[faults]]\ndo = 'kill a'\nat = '9s'\n[[faults]]\ndo = 'slow a'\nat = '9s'", r"faults\[2\]"),
    ],
)
def test_what_is_wrong_is_named_and_what_is_allowed_said(text: str, where: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^FLEET.toml: .*{where}") as caught:
        parse_fleet("FLEET.toml", text)
    assert caught.value.advice
    assert "\n" not in caught.value.detail + caught.value.advice


def test_profiles_are_sought_beside_the_file(tmp_path: Path) -> None:
    profile = Path(__file__).parents[2] / "sim_devices" / "profiles" / "rk3588.toml"
    (tmp_path / "mine.toml").write_text(profile.read_text())
    (tmp_path / "FLEET.toml").write_text('[[devices]]\nname = "a"\nprofile = "mine.toml"\n')
    assert load_fleet(str(tmp_path / "FLEET.toml")).devices[0].profile == str(tmp_path / "mine.toml")


def test_every_fleet_of_the_gallery_is_one() -> None:
    assert gallery() == ("rack", "street", "workshop")
    for name in gallery():
        fleet = load_fleet(name)
        assert fleet.description
        assert fleet.faults
        assert any(rule.shape != WIRE for rule in fleet.links)
        assert all(device.labels for device in fleet.devices)
    with pytest.raises(NotFound, match="no fleet 'nope'"):
        gallery_text("nope")
    with pytest.raises(NotFound, match="cannot read the fleet"):
        load_fleet("./nope.toml")


def test_a_scenario_may_stand_alone(tmp_path: Path) -> None:
    path = tmp_path / "storm.toml"
    path.write_text('seed = 3\n[[faults]]\nat = "1s"\ndo = "kill whoever"\n')
    scenario = load_scenario(str(path))
    assert (scenario.name, scenario.seed, [one.fault.text for one in scenario.faults]) == ("storm.toml", 3, ["kill whoever"])
    assert load_scenario("street").faults == load_fleet("street").faults
    path.write_text("[[links]]\n")
    with pytest.raises(InvalidInput, match="unknown key 'links'"):
        load_scenario(str(path))
