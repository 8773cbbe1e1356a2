"""What doctor makes of a closer look at the devices: judged from figures, told in lines, counted where there are many."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fleet.cli.doctor import device_check
from fleet.cli.doctor_fleet import look_findings, multicast_problem, numbers, span, unreached
from fleet.cli.findings import Finding, Level
from fleet.devices.diagnosis import Attempt, DeviceDiagnosis, FleetDiagnosis, Multicast, Outcome
from fleet.devices.views import DeviceView
from fleet.home import Home
from tests.support.command import Command
from tests.support.fake_coordinator import DEVICE, FakeCoordinator

GOOD = DeviceDiagnosis(
    DEVICE.device_id,
    DEVICE.name,
    clock_ahead_seconds=0.01,
    round_trip_seconds=0.004,
    certificate_seconds=50_000.0,
    storage_free_bytes=8 << 30,
    memory_available_bytes=8 << 30,
    memory_promised_bytes=4 << 30,
    multicast=Multicast(hears_us=True, hears_on=("eth0",), heard=True, heard_on=("eth0",), advertised=True),
)
LOOK = FleetDiagnosis("0.1.0", "1", 86400.0, 50_000.0, ("eth0 (192.168.7.1)",), (GOOD,))


def judged(one: DeviceDiagnosis = GOOD, device: DeviceView = DEVICE, look: FleetDiagnosis = LOOK) -> list[Finding]:
    return look_findings(replace(look, devices=(one,)), [device], "0.1.0")


def test_a_device_without_trouble_is_counted_in_lines_that_are_fine() -> None:
    findings = judged()
    assert {one.name: one.level for one in findings} == dict.fromkeys(("versions", "clocks", "certificates", "multicast", "disks"), "ok")
    assert next(one for one in findings if one.name == "multicast").detail == "both ways with 1 device, on eth0 (192.168.7.1)"


@pytest.mark.parametrize(
    ("change", "name", "level", "says"),
    [
        ({"clock_ahead_seconds": 119.0}, "clocks", "ok", "within 119.0 s"),
        ({"clock_ahead_seconds": 150.0}, "clock of dev-1", "warn", "2 min ahead of this machine's"),
        ({"clock_ahead_seconds": -150.0}, "clock of dev-1", "warn", "2 min behind this machine's"),
        ({"clock_ahead_seconds": -7300.0}, "clock of dev-1", "fail", "2 h behind this machine's: to it a new certificate"),
        ({"clock_ahead_seconds": 121.0, "round_trip_seconds": 4.0}, "clocks", "ok", "within 119.0 s"),  # half of it may be the way
        ({"certificate_seconds": 8000.0}, "certificate of dev-1", "warn", "overdue: it ends in 2 h"),
        ({"certificate_seconds": -90.0}, "certificate of dev-1", "fail", "expired 90 s ago"),
        ({"renewal_problem": "its clock is behind"}, "renewal for dev-1", "warn", "it takes no other certificate: its clock is behind"),
        ({"storage_free_bytes": 1 << 20}, "disk of dev-1", "warn", "only 1.0 MiB"),
        (
            {"memory_available_bytes": 1 << 30},
            "memory of dev-1",
            "warn",
            "4.0 GiB more are promised to models, and its machine has 1.0 GiB",
        ),
        ({"multicast": Multicast(hears_us=True, hears_on=("wlan0",))}, "multicast of dev-1", "warn", "it hears us (on its wlan0), and its"),
        (
            {"multicast": Multicast(hears_us=False, advertised=True)},
            "multicast of dev-1",
            "warn",
            "its adverts get here, and it did not hear",
        ),
        ({"multicast": Multicast(hears_us=False)}, "multicast of dev-1", "warn", "neither way: nothing of it is heard on eth0"),
    ],
)
def test_each_trouble_is_named_with_what_to_do(change: dict[str, object], name: str, level: Level, says: str) -> None:
    found = next(one for one in judged(replace(GOOD, **change)) if one.name == name)  # type: ignore[arg-type]
    assert found.level == level
    assert says in found.detail
    assert found.ok or (found.advice and found.device == "dev-1")


def test_versions_heat_and_battery_are_of_the_last_samples() -> None:
    older = next(one for one in judged(device=replace(DEVICE, agent_version="0.0.9")) if one.name == "version 0.0.9")
    assert (older.level, older.detail) == ("warn", "dev-1: older than this coordinator's 0.1.0; both speak protocol 1")
    assert "update the agent" in older.advice
    newer = next(one for one in judged(device=replace(DEVICE, agent_version="0.10.0")) if one.name == "version 0.10.0")
    assert "newer" in newer.detail
    assert "update the coordinator" in newer.advice
    hot = judged(device=replace(DEVICE, throttled=True, temperature_celsius=85.2, battery_fraction=0.1))
    assert {one.detail for one in hot if one.level == "warn"} == {"it runs slower to cool down at 85 °C", "10% are left"}
    behind = look_findings(LOOK, [DEVICE], "0.2.0")[0]
    assert (behind.level, behind.detail) == ("warn", "the coordinator runs 0.1.0, this command is 0.2.0")


@pytest.mark.parametrize(
    ("outcome", "says", "advice"),
    [
        ("refused", "nobody listens on that port", "glmfleet device run"),
        ("silent", "nothing comes back: a firewall", "TCP port 7420"),
        ("unreachable", "no machine has that address", "switched on"),
        ("another fleet", "a device of another fleet", "device leave --wipe"),
        ("hangs", "nothing is said", "restart its agent"),
        ("answers", "192.168.7.2:7420 does not answer; ", "restart its agent"),  # what the coordinator says of it stays
        ("expired", "its certificate has expired (2026-01-01", "restart its agent"),
        ("not yet valid", "clocks is wrong", "clock"),
    ],
)
def test_why_a_device_does_not_answer_and_what_to_do(outcome: Outcome, says: str, advice: str) -> None:
    away = replace(DEVICE, state="offline", detail="192.168.7.2:7420 does not answer")
    detail = "2026-01-01 10:00 UTC" if outcome == "expired" else ""
    attempts = (Attempt("172.17.0.1:7420", "unreachable"), Attempt("192.168.7.2:7420", outcome, detail))
    found = device_check(away, DeviceDiagnosis(DEVICE.device_id, "dev-1", attempts=attempts))
    assert found.level == "fail"
    assert says in found.detail
    assert advice in found.advice


def test_a_device_that_is_heard_though_it_cannot_be_reached_says_so() -> None:
    dropped = (Attempt("192.168.7.2:7420", "silent"),)
    assert unreached(dropped, Multicast(heard=True))[0].endswith("; it answers to mDNS, so it is a firewall")
    assert unreached(dropped, None)[0].endswith("of another network")
    assert unreached((), Multicast(heard=True)) == ("", "")
    assert (
        multicast_problem(Multicast(hears_us=None, advertised=True), ("lo",))
        == "its adverts get here, and it did not answer what was asked on lo"
    )


def test_warnings_alone_do_not_fail_and_of_many_devices_some_are_named(
    glmfleet: Command, served: Home, coordinator: FakeCoordinator
) -> None:
    (served.artifacts / "blobs").mkdir(parents=True)
    coordinator.found = [replace(DEVICE, device_id=f"d{number}", name=f"gate-{number}") for number in range(1000)]
    coordinator.looked = replace(
        LOOK, devices=tuple(replace(GOOD, device_id=f"d{n}", name=f"gate-{n}", clock_ahead_seconds=200.0) for n in range(1000))
    )
    _, out, _ = glmfleet("doctor", "--home", served.path)
    assert out.count("warning  clock of gate-") == 20
    assert "warning  clock: and 980 devices more; see --json\n" in out
    assert len(out.splitlines()) < 100
    found = json.loads(glmfleet("doctor", "--json", "--home", served.path)[1])
    assert sum(one["name"].startswith("clock of") for one in found) == 1000
    assert {one["level"] for one in found if one["name"].startswith("clock of")} == {"warn"}


def test_versions_and_spans_are_read_and_written() -> None:
    assert numbers("0.10.0") > numbers("0.9.1.dev3")
    assert [span(seconds) for seconds in (5, 119, 7199, 7200, 172_800)] == ["5 s", "119 s", "120 min", "2 h", "2 days"]
