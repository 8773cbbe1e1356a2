"""What doctor makes of a coordinator's answers: networks without anybody, devices that cannot keep what they are sent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.cli.doctor import device_checks, network_checks, own_network_checks
from fleet.devices.views import DiscoveryReport
from fleet.home import Home
from protos.net.interfaces import Interface, Survey
from tests.support.command import Command
from tests.support.fake_coordinator import DEVICE, FakeCoordinator

REPORT = DiscoveryReport("fleet", ("127.0.0.1",), (), 0, ())
MUTE = ("eth0 has no carrier: no cable, or no wireless network", "wlan0 is down")


@pytest.mark.parametrize(
    ("report", "online", "ok"),
    [
        (REPORT, True, None),  # nothing to say
        (replace(REPORT, mute=MUTE), True, True),  # another interface serves
        (replace(REPORT, mute=MUTE), False, False),
        (replace(REPORT, mute=MUTE, alone=True), False, False),
        (replace(REPORT, alone=True), False, False),
        (replace(REPORT, mute=MUTE, alone=True), True, True),  # all simulated, on an aeroplane
    ],
)
def test_interfaces_that_reach_nobody_are_named(report: DiscoveryReport, online: bool, ok: bool | None) -> None:
    checks = network_checks(report, [replace(DEVICE, state="online" if online else "offline")])
    assert [check.ok for check in checks] == ([] if ok is None else [ok])
    assert all(line in check.detail for check in checks for line in report.mute)


def test_without_a_coordinator_this_machine_s_interfaces_are_told() -> None:
    lo, eth = Interface("127.0.0.1", 8, "lo", 1), Interface("192.168.7.2", 24, "eth0", 2)
    (alone,) = own_network_checks(Survey(usable=(lo,), mute=MUTE))
    assert (alone.ok, alone.detail) == (False, f"mDNS on lo (127.0.0.1); {MUTE[0]}; {MUTE[1]}")
    fine, refused = own_network_checks(Survey(usable=(lo, eth), problems=("mDNS is not possible on tun0 (10.8.0.2): why",)))
    assert (fine.ok, refused.ok, refused.detail) == (True, False, "mDNS is not possible on tun0 (10.8.0.2): why")


def test_a_device_that_can_keep_no_more_is_a_problem_though_it_is_online(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator
) -> None:
    broken = replace(DEVICE, storage_problem="/var/glmfleet/blobs cannot be written to: the file system is read-only")
    coordinator.found = [broken]
    code, out, _ = glmfleet("doctor", "--home", served.path)
    assert code == 1
    assert "PROBLEM  device dev-1: online, but it can keep no more of a model: /var/glmfleet/blobs cannot be written to" in out
    many = [replace(DEVICE, device_id=f"d{number}") for number in range(100)]
    assert [check.ok for check in device_checks([*many, broken])] == [True, False]


def test_devices_tells_of_those_that_hold_more_than_they_promised(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    line = "dev-1 holds 3.0 GiB of memory, 1.0 GiB are promised: restart its agent"
    for held_bytes, problem in ((1 << 30, False), (3 << 30, True)):
        for devices, told in ((1, 1), (100, 20)):
            one = replace(DEVICE, memory_held_bytes=held_bytes)
            coordinator.found = [replace(one, device_id=f"d{number}") for number in range(devices)]
            _, out, err = glmfleet("devices", "--home", served.path)
            assert (out + err).count(line) == told * problem
