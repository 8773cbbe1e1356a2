"""What `glmfleet doctor` says on a board: whose it is, whether its agent runs, and whether its coordinator has been there."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from device.agent.identity import is_member, load_identity, own_key, public_der
from device.agent.only import running_agent
from device.agent.status import AgentStatus, read_status
from device.publishers import pinned_keys
from fleet.cli.doctor_fleet import RENEWED_BY, span
from fleet.cli.findings import Finding, checked
from fleet.cli.output import count_text
from fleet.home import Home
from protos.enrolment import words
from protos.errors import FleetError
from protos.ids import DeviceId, FleetId, device_id
from protos.sizes import bytes_text

AWAY_SECONDS = 120.0  # that a coordinator may be silent: what the agent notes is up to 20 s old
_AGENT = "start it: glmfleet device run"


@dataclass(frozen=True)
class BoardSeen:
    """`problem`: why its identity is no good, with `advice`; times in unix seconds."""

    device: DeviceId | None  # None: it has no key yet
    fleet: FleetId | None  # None: it is a member of none, or not of one that can be read
    member: bool
    problem: str
    advice: str
    not_before: float
    not_after: float
    publishers: int | None  # that are pinned; None: what is pinned cannot be read
    agent: str | None  # the process; None: none runs
    status: AgentStatus | None


def is_board(home: Home) -> bool:
    """Whether an agent has its home here, and no fleet has."""
    return home.device.is_dir() and not (home.authority / "key.pem").exists() and not home.coordinator.exists()


def look_at_board(folder: Path) -> BoardSeen:
    """Of the agent whose state is in `folder`. Blocks for milliseconds; makes nothing."""
    problem = advice = ""
    device = fleet = None
    not_before = not_after = 0.0
    member = is_member(folder)
    try:
        if (folder / "key.pem").exists():
            device = device_id(public_der(own_key(folder).public_key()))
        if member:
            certificate = x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())
            not_before, not_after = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
            middle = certificate.not_valid_before_utc + (certificate.not_valid_after_utc - certificate.not_valid_before_utc) / 2
            fleet = load_identity(folder, lambda: middle).fleet_id
    except FleetError as error:
        problem, advice = error.detail, error.advice
    except (OSError, ValueError) as error:
        problem, advice = f"its certificate cannot be read: {error}", "glmfleet device leave, and join again"
    publishers = None
    with suppress(FleetError):
        publishers = len(pinned_keys(folder))
    return BoardSeen(device, fleet, member, problem, advice, not_before, not_after, publishers, running_agent(folder), read_status(folder))


def board_findings(seen: BoardSeen, now: float) -> list[Finding]:
    """In the order in which they matter."""
    findings = [_fleet(seen)]
    if seen.member and not seen.problem:
        findings += [certificate_finding(seen, now), _publishers(seen)]
    findings.append(_agent(seen))
    if seen.agent is not None and seen.status is not None:
        findings += _of_the_agent(seen.status, now, seen.member)
    return findings


def _fleet(seen: BoardSeen) -> Finding:
    if seen.problem:
        return Finding("fleet", "fail", seen.problem, seen.advice)
    who = f"device {seen.device}, fingerprint {words(seen.device)}" if seen.device else "a board without a key yet"
    if not seen.member:
        advice = "where the coordinator runs: glmfleet devices accept " + (seen.device or "ID")
        return Finding("fleet", "fail", f"it belongs to none: {who}", advice if seen.agent else _AGENT)
    return Finding("fleet", "ok", f"{seen.fleet}; {who}")


def certificate_finding(seen: BoardSeen, now: float) -> Finding:
    """By this board's clock, which may be what is wrong."""
    left, life = seen.not_after - now, seen.not_after - seen.not_before
    clock = "or is this board's clock wrong? set it"
    if now < seen.not_before:
        return Finding(
            "certificate",
            "fail",
            f"good only in {span(seen.not_before - now)}, by this board's clock",
            "set this board's clock: it is behind",
        )
    if left <= 0:
        advice = f"start its coordinator, and the agent anew here: it asks for another and gets it; {clock}"
        return Finding(
            "certificate", "fail", f"expired {span(-left)} ago: nobody connects to this board, which asks its fleet for another", advice
        )
    if left < (1 - RENEWED_BY) * life:
        detail = (
            f"its renewal is overdue: it ends in {span(left)}, and the coordinator renews it when {RENEWED_BY:.0%} of its life are over"
        )
        return Finding("certificate", "warn", detail, f"does its coordinator run, and does it reach this board? {clock}")
    return Finding("certificate", "ok", f"good for another {span(left)}; the coordinator renews it before that")


def _publishers(seen: BoardSeen) -> Finding:
    if seen.publishers is None:
        return Finding("publishers", "fail", "what is pinned cannot be read", "glmfleet device leave --wipe, and join again")
    if not seen.publishers:
        return Finding("publishers", "ok", "none is pinned yet: it takes what its coordinator sends, whose publisher it pins")
    return Finding("publishers", "ok", f"{count_text(seen.publishers, 'key')} pinned: it takes models of nobody else")


def _agent(seen: BoardSeen) -> Finding:
    if seen.agent is None:
        return Finding("agent", "fail", "it does not run", _AGENT)
    where = f", {seen.status.version}, answers at {seen.status.address}" if seen.status is not None else ", waits for a fleet"
    return Finding("agent", "ok", f"process {seen.agent}{where}")


def _of_the_agent(status: AgentStatus, now: float, member: bool) -> list[Finding]:
    findings = []
    if status.storage_problem:
        advice = "free some disk, or let the agent's user write there"
        findings.append(Finding("models", "fail", f"no more of a model can be kept: {status.storage_problem}", advice))
    available, promised = status.memory_available_bytes, status.memory_promised_bytes
    if available is not None and available < promised:
        detail = f"{bytes_text(promised)} more are promised to models, and this machine has {bytes_text(available)}: others take the rest"
        findings.append(Finding("memory", "warn", detail, "end what takes it, or start the agent with a smaller --memory"))
    if member:
        findings.append(coordinator_finding(status, now))
    findings.append(hearing_finding(status, now))
    return findings


def coordinator_finding(status: AgentStatus, now: float) -> Finding:
    port = status.address.rpartition(":")[2]
    advice = f"does glmfleet serve run? glmfleet doctor there says whether it reaches this board; TCP port {port} must be open here"
    if not status.coordinator_at:
        return Finding("coordinator", "warn", "none has connected since the agent started", advice)
    ago = max(0.0, now - status.coordinator_at)
    if ago > AWAY_SECONDS:
        return Finding("coordinator", "warn", f"none has been connected for {span(ago)}", advice)
    return Finding("coordinator", "ok", "connected")


def hearing_finding(status: AgentStatus, now: float) -> Finding:
    if not status.listens:
        return Finding(
            "multicast", "warn", "the agent cannot listen to mDNS", "name it where the coordinator runs: glmfleet serve --seed HOST:PORT"
        )
    if not status.heard:
        detail = "nobody who looks for devices was heard yet"
        if status.coordinator_at and now - status.coordinator_at <= AWAY_SECONDS:  # it has no need to ask
            return Finding("multicast", "ok", f"{detail}: glmfleet doctor where the coordinator runs tries both ways")
        advice = "let UDP port 5353 in, or name this board where the coordinator runs: glmfleet serve --seed HOST:PORT"
        return Finding("multicast", "warn", detail, advice)
    latest = {one.interface: one for one in sorted(status.heard, key=lambda one: one.at)}
    lines = [f"on {name} {one.sender} {span(max(0.0, now - one.at))} ago" for name, one in sorted(latest.items())]
    return checked("multicast", True, f"who looks for devices was heard: {', '.join(lines)}")
