"""The command that checks an installation and says why a device is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import typer

from fleet.cli.client import CoordinatorClient, connect
from fleet.cli.devices import FEW, NAMED, held_text, kind
from fleet.cli.doctor_storage import Check, storage_checks
from fleet.cli.options import HomeOption, JsonOption
from fleet.cli.output import count_text, print_json, say
from fleet.cli.sim_fleet import local_fleet
from fleet.deploying.views import DeploymentView
from fleet.devices.views import DeviceView, DiscoveryReport, GatewayView
from fleet.home import Home
from protos.errors import FleetError
from protos.net import watch
from protos.net.interfaces import Survey, why_alone
from quantize.artifact.store import ArtifactStore
from sim_devices.local_fleet import LocalDevice

_BRING_UP = "bring one up: it is noticed within seconds, nothing has to be started again"
_NAME_IT = "devices there are not found by mDNS: use --seed HOST:PORT"


def doctor(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Check this installation and say why a device is missing. Exit code 1 when something is wrong.

    Example: glmfleet doctor
    """
    checks = examine(Home.at(home))
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            say(f"{'ok     ' if check.ok else 'PROBLEM'}  {check.name}: {check.detail}")
            if not check.ok and check.advice:
                say(f"         {check.advice}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def examine(home: Home) -> list[Check]:
    """Everything that can be looked at from here, in the order in which it is set up."""
    try:
        Home.open(home.path)  # made when it is missing
    except FleetError as error:
        if not home.path.is_dir():
            return [Check("home", False, error.detail, error.advice)]
    checks = storage_checks(home)
    checks.append(_models(home))
    local = local_fleet(home).status()
    checks += [
        Check(
            f"simulated device {one.name}", False, f"ended: {one.detail}", f"start it again as it was: glmfleet sim fault rejoin {one.name}"
        )
        for one in local
        if not one.running
    ]
    try:
        with connect(home) as coordinator:
            return [*checks, *_coordinator(coordinator, [one for one in local if one.running])]
    except FleetError as error:
        return [*checks, *own_network_checks(watch.look(None)), Check("coordinator", False, error.detail, error.advice)]


def _models(home: Home) -> Check:
    try:
        names = ArtifactStore(home.artifacts).list()
    except FleetError as error:
        return Check("models", False, error.detail, error.advice)
    if not names:
        return Check("models", False, "none yet", "get one: glmfleet model pull smollm2-135m")
    return Check("models", True, ", ".join(names))


def _coordinator(coordinator: CoordinatorClient, local: Sequence[LocalDevice]) -> list[Check]:
    devices = coordinator.devices()
    checks = [Check("coordinator", True, "answers")]
    checks += discovery_checks(coordinator.discovery(), devices, local)
    if asking := coordinator.enrolments():
        names = ", ".join(one.name for one in asking[:NAMED])
        checks.append(
            Check("joining", False, f"{count_text(len(asking), 'board')} ask to join: {names}", "take them in: glmfleet devices pending")
        )
    checks += device_checks(devices)
    return checks + [_deployment_check(deployment) for deployment in coordinator.deployments()]


def discovery_checks(report: DiscoveryReport, devices: Sequence[DeviceView], local: Sequence[LocalDevice]) -> list[Check]:
    """Where was looked, what went wrong there, and which local devices nobody found."""
    where = ", ".join(report.interfaces) or "no interface"
    seeds = f"; seeds {', '.join(report.seeds)}" if report.seeds else ""
    others = f"; {report.other_fleets} of other fleets ignored" if report.other_fleets else ""
    found = Check(
        "discovery",
        bool(devices),
        f"{count_text(len(devices), 'device')} of fleet {report.fleet_id}; mDNS on {where}{seeds}{others}",
        "start some (glmfleet sim up --devices 3), or name one: glmfleet serve --seed HOST:PORT",
    )
    gateways = [gateway_check(one) for one in report.gateways]
    problems = [Check("discovery", False, problem, _NAME_IT) for problem in report.problems]
    known = {device.device_id for device in devices} | {one.gateway_id for one in report.gateways}
    missing = [
        Check(
            f"simulated device {one.name}", False, f"runs at {one.address} and was not found", f"try: glmfleet serve --seed {one.address}"
        )
        for one in local
        if one.device_id and one.device_id not in known
    ]
    return [found, *network_checks(report, devices), *gateways, *problems, *missing]


def own_network_checks(survey: Survey) -> list[Check]:
    """Of this machine, where no coordinator says what it makes of it: an agent sees the same."""
    where = ", ".join(map(str, survey.usable)) or "no interface"
    lines = [why_alone(survey.mute, bool(survey.usable))] if survey.waits(None) else survey.mute
    found = Check("network", not survey.alone, "; ".join([f"mDNS on {where}", *lines]), _BRING_UP)
    return [found, *(Check("network", False, problem, _NAME_IT) for problem in survey.problems)]


def network_checks(report: DiscoveryReport, devices: Sequence[DeviceView]) -> list[Check]:
    """The interfaces that reach nobody: no problem while some device is reached without them."""
    if not report.mute and not report.alone:
        return []
    ok = any(device.state == "online" for device in devices)
    heard = "no other machine can be heard" if report.alone else "not used"
    return [Check("network", ok, f"{heard}: {why_alone(report.mute, bool(report.interfaces))}", _BRING_UP)]


def gateway_check(gateway: GatewayView) -> Check:
    detail = f"at {gateway.address}, {gateway.online:,} of {count_text(gateway.devices, 'device')} behind it online"
    detail += f": {gateway.detail}" if gateway.detail else ""
    ok = gateway.connected and not gateway.detail
    return Check(f"gateway {gateway.name}", ok, detail, "is it running, and does the network let this machine reach it?")


def device_checks(devices: Sequence[DeviceView]) -> list[Check]:
    """Each device; of a large fleet the healthy ones are counted, and of the others the first named."""
    if len(devices) <= FEW:
        return [device_check(device) for device in devices]
    bad = [device for device in devices if device.state != "online"]
    kinds = Counter(kind(device) for device in devices if device.state == "online")
    online = ", ".join(f"{count:,} {name}" for name, count in sorted(kinds.items())) or "none"
    counted = Check("devices", not bad, f"online: {online}" + (f"; {len(bad):,} are not" if bad else ""), "see glmfleet devices --json")
    ailing = [found for device in devices if not (found := device_check(device)).ok]
    return [counted, *ailing[:NAMED]]


def device_check(device: DeviceView) -> Check:
    ok = device.state == "online"
    if ok and device.storage_problem:
        detail = f"online, but it can keep no more of a model: {device.storage_problem}"
        return Check(f"device {device.name}", False, detail, "free some disk on the device, or let its agent write there")
    detail = f"{device.state} at {device.address}" + (f": {device.detail}" if device.detail else "")
    detail += " (hollow: it computes nothing)" if device.hollow else ""
    if ok and device.holds_too_much:
        detail += f"; it {held_text(device)}"
        return Check(f"device {device.name}", False, detail, "restart its agent, and report it")
    return Check(f"device {device.name}", ok, detail, "" if ok else "is it running, and does the network let this machine reach it?")


def _deployment_check(deployment: DeploymentView) -> Check:
    ok = deployment.state == "ready"
    detail = deployment.state + (f": {deployment.detail}" if deployment.detail else "")
    if deployment.state == "unreadable":
        return Check(f"deployment {deployment.name}", ok, detail, "its detail says what can be done")
    options = f" --stages {len(deployment.stages)}" + (f" --replicas {len(deployment.pipelines)}" if len(deployment.pipelines) > 1 else "")
    name = f" --name {deployment.name}" if deployment.name != deployment.model else ""
    again = f"it answers again when its devices are back; or, on others: glmfleet deploy {deployment.model}{name}{options}"
    return Check(f"deployment {deployment.name}", ok, detail, "" if ok else again)
