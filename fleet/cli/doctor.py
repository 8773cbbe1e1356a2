"""The command that checks an installation and says why a device is missing."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.client import CoordinatorClient, connect
from fleet.cli.devices import FEW, NAMED, held_text, kind
from fleet.cli.doctor_board import board_findings, is_board, look_at_board
from fleet.cli.doctor_bundle import Examination, FleetSeen, write_bundle
from fleet.cli.doctor_fleet import look_findings, unreached
from fleet.cli.doctor_storage import storage_checks
from fleet.cli.findings import Finding, checked, tell
from fleet.cli.findings import as_json as listed
from fleet.cli.options import HomeOption, JsonOption
from fleet.cli.output import count_text, note, print_json
from fleet.cli.sim_fleet import local_fleet
from fleet.deploying.views import DeploymentView
from fleet.devices.diagnosis import DeviceDiagnosis, FleetDiagnosis
from fleet.devices.views import DeviceView, DiscoveryReport, GatewayView
from fleet.home import Home
from fleet.trust.login import read_login
from protos.errors import FleetError, NotFound
from protos.net import watch
from protos.net.interfaces import Survey, why_alone
from quantize.artifact.store import ArtifactStore
from sim_devices.local_fleet import LocalDevice

_BRING_UP = "bring one up: it is noticed within seconds, nothing has to be started again"
_NAME_IT = "devices there are not found by mDNS: use --seed HOST:PORT"


BundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle", metavar="FILE", help="Write what a maintainer needs to know, without secrets, to this .tar.gz.", show_default=False
    ),
]


def doctor(as_json: JsonOption = False, bundle: BundleOption = None, home: HomeOption = None) -> None:
    """Check this installation and say why a device is missing. Exit code 1 when something is wrong.

    On a board: whose it is, its certificate, its agent, and when a coordinator was there last. Where the coordinator runs: each device, why
    it does not answer, its clock, certificate, disk and memory, and whether multicast gets there and back.

    Example: glmfleet doctor
    """
    examination = examine(Home.at(home))
    if as_json:
        print_json(listed(examination.findings))
    else:
        tell(examination.findings)
    if bundle is not None:
        write_bundle(bundle, examination)
        note(f"{bundle} has it all, without keys, tokens and prompts: look through it before you send it to anybody")
    if any(one.level == "fail" for one in examination.findings):
        raise typer.Exit(1)


def examine(home: Home) -> Examination:
    """Everything that can be looked at from here, in the order in which it is set up."""
    try:
        Home.open(home.path)  # made when it is missing
    except FleetError as error:
        if not home.path.is_dir():
            return Examination(home, [checked("home", False, error.detail, error.advice)])
    findings = storage_checks(home)
    if is_board(home):
        findings += board_findings(look_at_board(home.device), time.time())
        return Examination(home, [*findings, *own_network_checks(watch.look(None))])
    if read_login(home) is None:  # models lie where the coordinator is
        findings.append(_models(home))
    local = local_fleet(home).status()
    findings += [
        checked(
            f"simulated device {one.name}", False, f"ended: {one.detail}", f"start it again as it was: glmfleet sim fault rejoin {one.name}"
        )
        for one in local
        if not one.running
    ]
    try:
        with connect(home) as coordinator:
            if sys.stderr.isatty():
                note("looking at each device: it takes some seconds where one does not answer")
            seen = look_at_fleet(coordinator)
    except FleetError as error:
        advice = error.advice + ("" if home.device.exists() else "; on a board: glmfleet device run")
        findings += [*own_network_checks(watch.look(None)), checked("coordinator", False, error.detail, advice)]
        return Examination(home, findings, local)
    return Examination(home, [*findings, *fleet_findings(seen, [one for one in local if one.running])], local, seen)


def _models(home: Home) -> Finding:
    try:
        names = ArtifactStore(home.artifacts).list()
    except FleetError as error:
        return checked("models", False, error.detail, error.advice)
    if not names:
        return checked("models", False, "none yet", "get one: glmfleet model pull smollm2-135m")
    return checked("models", True, ", ".join(names))


def look_at_fleet(coordinator: CoordinatorClient) -> FleetSeen:
    """Raises FleetError. A coordinator of the release before knows no closer look."""
    look: FleetDiagnosis | None = None
    with suppress(NotFound):
        look = coordinator.diagnosis()
    return FleetSeen(coordinator.discovery(), coordinator.devices(), coordinator.enrolments(), coordinator.deployments(), look)


def fleet_findings(seen: FleetSeen, local: Sequence[LocalDevice]) -> list[Finding]:
    checks = [checked("coordinator", True, "answers")]
    checks += discovery_checks(seen.discovery, seen.devices, local)
    if asking := seen.enrolments:
        names = ", ".join(one.name for one in asking[:NAMED])
        checks.append(
            checked("joining", False, f"{count_text(len(asking), 'board')} ask to join: {names}", "take them in: glmfleet devices pending")
        )
    checks += device_checks(seen.devices, seen.look)
    if seen.look is not None:
        checks += look_findings(seen.look, seen.devices, version("glmfleet"))
    return checks + [_deployment_check(deployment) for deployment in seen.deployments]


def discovery_checks(report: DiscoveryReport, devices: Sequence[DeviceView], local: Sequence[LocalDevice]) -> list[Finding]:
    """Where was looked, what went wrong there, and which local devices nobody found."""
    where = ", ".join(report.interfaces) or "no interface"
    seeds = f"; seeds {', '.join(report.seeds)}" if report.seeds else ""
    others = f"; {report.other_fleets} of other fleets ignored" if report.other_fleets else ""
    finding = checked(
        "discovery",
        bool(devices),
        f"{count_text(len(devices), 'device')} of fleet {report.fleet_id}; mDNS on {where}{seeds}{others}",
        "start some (glmfleet sim up --devices 3), or name one: glmfleet serve --seed HOST:PORT",
    )
    gateways = [gateway_check(one) for one in report.gateways]
    problems = [checked("discovery", False, problem, _NAME_IT) for problem in report.problems]
    known = {device.device_id for device in devices} | {one.gateway_id for one in report.gateways}
    missing = [
        checked(
            f"simulated device {one.name}", False, f"runs at {one.address} and was not found", f"try: glmfleet serve --seed {one.address}"
        )
        for one in local
        if one.device_id and one.device_id not in known
    ]
    return [finding, *network_checks(report, devices), *gateways, *problems, *missing]


def own_network_checks(survey: Survey) -> list[Finding]:
    """Of this machine, where no coordinator says what it makes of it: an agent sees the same."""
    where = ", ".join(map(str, survey.usable)) or "no interface"
    lines = [why_alone(survey.mute, bool(survey.usable))] if survey.waits(None) else survey.mute
    finding = checked("network", not survey.alone, "; ".join([f"mDNS on {where}", *lines]), _BRING_UP)
    return [finding, *(checked("network", False, problem, _NAME_IT) for problem in survey.problems)]


def network_checks(report: DiscoveryReport, devices: Sequence[DeviceView]) -> list[Finding]:
    """The interfaces that reach nobody: no problem while some device is reached without them."""
    if not report.mute and not report.alone:
        return []
    ok = any(device.state == "online" for device in devices)
    heard = "no other machine can be heard" if report.alone else "not used"
    return [checked("network", ok, f"{heard}: {why_alone(report.mute, bool(report.interfaces))}", _BRING_UP)]


def gateway_check(gateway: GatewayView) -> Finding:
    detail = f"at {gateway.address}, {gateway.online:,} of {count_text(gateway.devices, 'device')} behind it online"
    detail += f": {gateway.detail}" if gateway.detail else ""
    ok = gateway.connected and not gateway.detail
    return checked(f"gateway {gateway.name}", ok, detail, "is it running, and does the network let this machine reach it?")


def device_checks(devices: Sequence[DeviceView], look: FleetDiagnosis | None = None) -> list[Finding]:
    """Each device; of a large fleet the healthy ones are counted, and of the others the first named."""
    closer = {one.device_id: one for one in look.devices} if look is not None else {}
    if len(devices) <= FEW:
        return [device_check(device, closer.get(device.device_id)) for device in devices]
    bad = [device for device in devices if device.state != "online"]
    kinds = Counter(kind(device) for device in devices if device.state == "online")
    online = ", ".join(f"{count:,} {name}" for name, count in sorted(kinds.items())) or "none"
    counted = checked("devices", not bad, f"online: {online}" + (f"; {len(bad):,} are not" if bad else ""), "see glmfleet devices --json")
    ailing = [one for device in devices if not (one := device_check(device, closer.get(device.device_id))).ok]
    return [counted, *ailing[:NAMED]]


def device_check(device: DeviceView, closer: DeviceDiagnosis | None = None) -> Finding:
    name = f"device {device.name}"
    ok = device.state == "online"
    if ok and device.storage_problem:
        detail = f"online, but it can keep no more of a model: {device.storage_problem}"
        return checked(name, False, detail, "free some disk on the device, or let its agent write there", device.name)
    detail = f"{device.state} at {device.address}" + (f": {device.detail}" if device.detail else "")
    if ok and device.holds_too_much:
        return checked(name, False, f"{detail}; it {held_text(device)}", "restart its agent, and report it", device.name)
    advice = "" if ok else "is it running, and does the network let this machine reach it?"
    if not ok and closer is not None:
        met, what_to_do = unreached(closer.attempts, closer.multicast)
        if any(one.outcome == "answers" for one in closer.attempts):  # why it is not taken for online is what the coordinator says
            detail, advice = f"{detail}; {met}", what_to_do
        elif met:
            detail, advice = f"{device.state}: {met}", what_to_do
    detail += " (hollow: it computes nothing)" if device.hollow else ""
    return checked(name, ok, detail, advice, device.name)


def _deployment_check(deployment: DeploymentView) -> Finding:
    ok = deployment.state == "ready"
    detail = deployment.state + (f": {deployment.detail}" if deployment.detail else "")
    if deployment.state == "unreadable":
        return checked(f"deployment {deployment.name}", ok, detail, "its detail says what can be done")
    options = f" --stages {len(deployment.stages)}" + (f" --replicas {len(deployment.pipelines)}" if len(deployment.pipelines) > 1 else "")
    name = f" --name {deployment.name}" if deployment.name != deployment.model else ""
    again = f"it answers again when its devices are back; or, on others: glmfleet deploy {deployment.model}{name}{options}"
    return checked(f"deployment {deployment.name}", ok, detail, "" if ok else again)
