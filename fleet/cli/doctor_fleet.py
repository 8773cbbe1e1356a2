"""What `glmfleet doctor` makes of a closer look at the devices: each a function of what was seen, and of nothing else."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from fleet.cli.findings import Finding, Level
from fleet.cli.output import count_text
from fleet.devices.diagnosis import Attempt, DeviceDiagnosis, FleetDiagnosis, Multicast
from fleet.devices.views import DeviceView
from protos.sizes import bytes_text

CLOCK_WARNING_SECONDS, CLOCK_FAILURE_SECONDS = 120.0, 300.0  # a certificate begins 5 minutes before it is made, and not earlier
RENEWED_BY = 0.9  # of a certificate's life
LOW_STORAGE_BYTES = 256 << 20
LOW_BATTERY = 0.2
_FIREWALL = "let TCP port {port} through in the firewall of that machine, or on the way to it"
_SET_CLOCK = "set the clock there (an NTP service keeps it): certificates are judged by it"
_SEED = "it needs no mDNS once it is known: glmfleet serve --seed {address}; or let UDP port 5353 through on both machines"

_MEANS: dict[str, tuple[str, str]] = {  # what was met, and what to do
    "answers": ("it answers there now", "it may come back by itself within seconds; else restart its agent"),
    "refused": ("the machine is there and refuses: nobody listens on that port", "start the agent there: glmfleet device run"),
    "silent": ("nothing comes back: a firewall, a machine that has just gone, or an address of another network", _FIREWALL),
    "unreachable": ("no machine has that address now", "is it switched on, and on this network? what it announces is tried at once"),
    "unresolved": ("no address is known for that name", "give its address: glmfleet serve --seed HOST:PORT"),
    "hangs": ("the connection is taken and nothing is said: its agent hangs", "restart its agent"),
    "no tls": ("somebody listens and does not speak TLS as devices do", "is it a device, and not --insecure?"),
    "waits to join": (
        "it answers as a board of no fleet, or whose certificate has expired",
        "glmfleet devices pending says why it is not in",
    ),
    "expired": ("its certificate has expired", "restart its agent: it asks for another, and gets it"),
    "not yet valid": ("its certificate is not valid yet: one of the two clocks is wrong", "set this machine's clock, and the device's"),
    "another device": ("another device answers there", "it has another address now: is its agent running?"),
    "another fleet": (
        "a device of another fleet answers there",
        "give it to this fleet: glmfleet device leave --wipe on it, then device run",
    ),
}


def unreached(attempts: Sequence[Attempt], multicast: Multicast | None) -> tuple[str, str]:
    """(what was met at the addresses of a device that is not connected, what to do); ("", "") where nothing was tried."""
    if not attempts:
        return "", ""
    words = []
    for one in attempts:
        words.append(f"{one.address}: {_MEANS[one.outcome][0]}" + (f" ({one.detail})" if one.detail else ""))
    telling = min(attempts, key=lambda one: _TELLING.index(one.outcome))
    advice = _MEANS[telling.outcome][1].format(port=telling.address.rpartition(":")[2])
    if multicast is not None and (multicast.heard or multicast.advertised):
        running = telling.outcome == "silent" and multicast.heard
        words.append("it answers to mDNS" + (", so it is a firewall" if running else "") if multicast.heard else "it was heard by mDNS")
    return "; ".join(words), advice


_TELLING = (
    "answers",
    "expired",
    "not yet valid",
    "waits to join",
    "hangs",
    "no tls",
    "refused",
    "silent",
    "another fleet",
    "another device",
    "unresolved",
    "unreachable",
)


def look_findings(look: FleetDiagnosis, devices: Sequence[DeviceView], version: str) -> list[Finding]:
    """All that is found out of the devices that answer, and of the coordinator itself; `version` is that of this command."""
    views = {device.device_id: device for device in devices}
    answering = [one for one in look.devices if one.round_trip_seconds is not None]
    return [
        *_coordinator(look, version),
        *version_findings(look, devices),
        *clock_findings(answering),
        *certificate_findings(look, answering),
        *multicast_findings(look, answering, views),
        *storage_findings(answering, views),
        *memory_findings(answering),
        *board_findings(devices),
    ]


def _coordinator(look: FleetDiagnosis, version: str) -> list[Finding]:
    if look.version == version:
        return []
    detail = f"the coordinator runs {look.version}, this command is {version}"
    return [Finding("version of the coordinator", "warn", detail, "restart glmfleet serve with the version that is installed now")]


def version_findings(look: FleetDiagnosis, devices: Sequence[DeviceView]) -> list[Finding]:
    """One for each version that is not the coordinator's."""
    others: dict[str, list[str]] = defaultdict(list)
    for device in devices:
        if device.state == "online" and device.agent_version not in ("", look.version):
            others[device.agent_version].append(device.name)
    findings = []
    for other, names in sorted(others.items()):
        older = numbers(other) < numbers(look.version)
        advice = "update the agent there" if older else "update the coordinator: update it first, or all at once"
        detail = (
            f"{some(names)}: {'older' if older else 'newer'} than this coordinator's {look.version}; both speak protocol {look.protocol}"
        )
        findings.append(Finding(f"version {other}", "warn", detail, advice))
    if not findings and any(device.state == "online" for device in devices):
        findings.append(Finding("versions", "ok", f"all run {look.version}, protocol {look.protocol}"))
    return findings


def clock_findings(answering: Sequence[DeviceDiagnosis]) -> list[Finding]:
    """A clock is known to half a round trip, which is taken off what is said of it."""
    findings, largest = [], 0.0
    for one in answering:
        if one.clock_ahead_seconds is None or one.round_trip_seconds is None:
            continue
        wrong = max(0.0, abs(one.clock_ahead_seconds) - one.round_trip_seconds / 2)
        largest = max(largest, wrong)
        if wrong > CLOCK_WARNING_SECONDS:
            level: Level = "fail" if wrong > CLOCK_FAILURE_SECONDS else "warn"
            detail = f"{span(wrong)} {'ahead of' if one.clock_ahead_seconds > 0 else 'behind'} this machine's"
            if level == "fail":
                detail += (
                    ": to it a new certificate is not valid yet" if one.clock_ahead_seconds < 0 else ": to it a certificate ends sooner"
                )
            findings.append(Finding(f"clock of {one.name}", level, detail, _SET_CLOCK, one.name))
    if not findings and answering:
        findings.append(Finding("clocks", "ok", f"of {count_text(len(answering), 'device')}: within {largest:.1f} s of this machine's"))
    return findings


def certificate_findings(look: FleetDiagnosis, answering: Sequence[DeviceDiagnosis]) -> list[Finding]:
    """Renewed at 70 to 90 % of their life by the coordinator: later than that nobody has."""
    if look.life_seconds is None:
        return [
            Finding("certificates", "warn", "none: everything is in plaintext (--insecure)", "leave --insecure out: TLS needs no set-up")
        ]
    findings, least = [], look.life_seconds
    overdue = (1 - RENEWED_BY) * look.life_seconds
    everybody = [(one.name, one.certificate_seconds) for one in answering] + [("the coordinator", look.certificate_seconds)]
    for name, left in everybody:
        if left is None:
            continue
        least = min(least, left)
        device = "" if name == "the coordinator" else name
        if left <= 0:
            detail = f"expired {span(-left)} ago: streams that stand go on, nobody connects to it anew"
            findings.append(Finding(f"certificate of {name}", "fail", detail, f"restart {name}: a new one is made out then", device))
        elif left < overdue:
            detail = f"its renewal is overdue: it ends in {span(left)}, and then nobody connects to it any more"
            findings.append(
                Finding(f"certificate of {name}", "warn", detail, "the log of glmfleet serve says why it is not renewed", device)
            )
    for one in look.devices:
        if one.renewal_problem:
            advice = "it stays in the fleet until its certificate ends; glmfleet doctor on that board says more"
            detail = f"it takes no other certificate: {one.renewal_problem}"
            findings.append(Finding(f"renewal for {one.name}", "warn", detail, advice, one.name))
    if not findings:
        findings.append(Finding("certificates", "ok", f"the first ends in {span(least)}; renewed by the coordinator before that"))
    return findings


def multicast_findings(look: FleetDiagnosis, answering: Sequence[DeviceDiagnosis], views: dict[str, DeviceView]) -> list[Finding]:
    """A device that is reached is found again after a change of its address only where multicast gets from it to us."""
    if not look.probed_on:
        return (
            []
            if not answering
            else [Finding("multicast", "warn", "not tried: mDNS is spoken on no interface here", "devices need --seed HOST:PORT")]
        )
    findings, both, untold = [], 0, 0
    for one in answering:
        seen = one.multicast
        if seen is None:
            continue
        problem = multicast_problem(seen, look.probed_on)
        both += not problem and seen.hears_us is True
        untold += not problem and seen.hears_us is None
        if problem:
            address = views[one.device_id].address if one.device_id in views else "HOST:PORT"
            findings.append(Finding(f"multicast of {one.name}", "warn", problem, _SEED.format(address=address), one.name))
    if not findings and both + untold:
        ways = f"both ways with {count_text(both, 'device')}" if both else "heard"
        ways += f"; {count_text(untold, 'device')} heard, which cannot tell what it hears" if untold else ""
        findings.append(Finding("multicast", "ok", f"{ways}, on {', '.join(look.probed_on)}"))
    return findings


def multicast_problem(seen: Multicast, probed_on: Sequence[str]) -> str:
    """One line; "" when it works, as far as can be told."""
    ours = ", ".join(probed_on)
    if seen.heard:
        return ""  # it has answered, so it has heard
    if seen.hears_us:
        return f"it hears us (on its {', '.join(seen.hears_on)}), and its answer does not get here (asked on {ours})"
    if seen.advertised:
        deaf = "did not hear" if seen.hears_us is False else "did not answer"
        return f"its adverts get here, and it {deaf} what was asked on {ours}"
    return f"neither way: nothing of it is heard on {ours}" + (", and it hears nothing of us" if seen.hears_us is False else "")


def storage_findings(answering: Sequence[DeviceDiagnosis], views: dict[str, DeviceView]) -> list[Finding]:
    findings, least = [], None
    for one in answering:
        if one.storage_free_bytes is None or (one.device_id in views and views[one.device_id].storage_problem):
            continue  # that it can keep nothing is said of the device
        least = one.storage_free_bytes if least is None else min(least, one.storage_free_bytes)
        if one.storage_free_bytes < LOW_STORAGE_BYTES:
            detail = f"only {bytes_text(one.storage_free_bytes)} are free for models"
            findings.append(
                Finding(f"disk of {one.name}", "warn", detail, "free some space there: what no stage uses is dropped first", one.name)
            )
    if not findings and least is not None:
        findings.append(Finding("disks", "ok", f"{bytes_text(least)} or more are free on each device"))
    return findings


def memory_findings(answering: Sequence[DeviceDiagnosis]) -> list[Finding]:
    """What a device still promises to models, against what its machine has."""
    findings = []
    for one in answering:
        available, promised = one.memory_available_bytes, one.memory_promised_bytes
        if available is None or promised is None or available >= promised:
            continue
        detail = f"{bytes_text(promised)} more are promised to models, and its machine has {bytes_text(available)}: others take the rest"
        findings.append(
            Finding(
                f"memory of {one.name}", "warn", detail, "end what takes it there, or start its agent with a smaller --memory", one.name
            )
        )
    return findings


def board_findings(devices: Iterable[DeviceView]) -> list[Finding]:
    """Heat and batteries, by the last samples."""
    findings = []
    for one in devices:
        if one.throttled:
            hot = f" at {one.temperature_celsius:.0f} °C" if one.temperature_celsius is not None else ""
            findings.append(
                Finding(f"speed of {one.name}", "warn", f"it runs slower to cool down{hot}", "cool it, or give it less to do", one.name)
            )
        if one.battery_fraction is not None and one.battery_fraction < LOW_BATTERY:
            detail = f"{one.battery_fraction:.0%} are left"
            findings.append(
                Finding(f"battery of {one.name}", "warn", detail, "charge it: its stages have to move when it goes down", one.name)
            )
    return findings


def numbers(version: str) -> tuple[int, ...]:
    """To compare versions by: (0, 1, 0) of "0.1.0"."""
    return tuple(int(text) for text in re.findall(r"\d+", version)[:4])


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def span(seconds: float) -> str:
    """ "12 s", "4 min", "18 h", "3 days"."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
