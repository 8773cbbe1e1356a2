"""`glmfleet doctor --bundle`: what a maintainer needs to know of an installation, in one file, without what nobody else may know.

Nothing of the home is copied but what is named here. What is written passes `Secrets` all the same: a log may have more in it than
it should.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from fleet.api.encode import plain
from fleet.cli.findings import Finding, as_json
from fleet.deploying.views import DeploymentView
from fleet.devices.diagnosis import FleetDiagnosis
from fleet.devices.views import DeviceView, DiscoveryReport
from fleet.enrolling.views import EnrolmentView
from fleet.home import Home
from protos.errors import InvalidInput
from protos.net.interfaces import read_adapters
from protos.versions import SPOKEN
from sim_devices.local_fleet import LocalDevice
from sim_devices.processes import LOG

LOG_LINES, LOG_BYTES, MOST_LOGS = 200, 256 << 10, 20
REMOVED = "[removed]"
_SHOWN_VARIABLES = ("GLMFLEET_HOME", "GLMFLEET_DEBUG", "HF_ENDPOINT", "LANG")
_SECRET_FILES = ("api-key", "key.pem")
_LEAST_SECRET = 12  # characters: a shorter piece of a key is in many a word
_PATTERNS = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        (r"glmfleet-[a-z2-7]{40,}", re.IGNORECASE),  # an enrolment token
        (r"glmfleet-(key|login)-[\w-]+", 0),  # of the API
        (r"(?<=bearer )[^\s\"',}]+", re.IGNORECASE),
        (r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)", 0),  # of a database's URL, a proxy's, a model hub's
        (r"\bhf_[A-Za-z0-9]{20,}", 0),  # of a model hub
        (r"(?<=[?&]token=)[^&\s\"']+", re.IGNORECASE),
    )
)


@dataclass(frozen=True)
class FleetSeen:
    """What the coordinator said. `look`: None where it is of a release that knows none."""

    discovery: DiscoveryReport
    devices: list[DeviceView]
    enrolments: list[EnrolmentView]
    deployments: list[DeploymentView]
    look: FleetDiagnosis | None


@dataclass(frozen=True)
class Examination:
    """What doctor has looked at."""

    home: Home
    findings: list[Finding]
    local: Sequence[LocalDevice] = ()
    seen: FleetSeen | None = None


class Secrets:
    """`removed` takes out what is known to be secret, and what looks so."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = sorted({one for one in known if len(one) >= _LEAST_SECRET}, key=len, reverse=True)

    @classmethod
    def of(cls, home: Home, environment: Mapping[str, str]) -> Secrets:
        """Keys below the home, and whatever the environment calls a token, a key or a password."""
        known = [value for name, value in environment.items() if re.search("TOKEN|KEY|SECRET|PASSWORD|PASSWD", name, re.IGNORECASE)]
        for name in _SECRET_FILES:
            for path in home.path.rglob(name):
                text = _text(path)
                known += [text.strip(), *(line.strip() for line in text.splitlines() if not line.startswith("-----"))]
        return cls(known)

    def removed(self, text: str) -> str:
        for pattern in _PATTERNS:
            text = pattern.sub(REMOVED, text)
        for one in self._known:
            text = text.replace(one, REMOVED).replace(json.dumps(one)[1:-1], REMOVED)
        return text


def write_bundle(path: Path, examination: Examination, environment: Mapping[str, str] = os.environ) -> None:
    """Replaces the file; it is for its owner alone. Raises InvalidInput."""
    secrets = Secrets.of(examination.home, environment)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, text in collected(examination, environment):
                data = secrets.removed(text).encode()
                member = tarfile.TarInfo(f"glmfleet-doctor/{name}")
                member.size, member.mtime, member.mode = len(data), int(time.time()), 0o600
                archive.addfile(member, io.BytesIO(data))
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}", advice="give another file with --bundle") from error


def collected(examination: Examination, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """(name, text) of each part."""
    seen = examination.seen
    parts: dict[str, Any] = {
        "versions": _versions(),
        "doctor": as_json(examination.findings),
        "settings": _settings(examination.home, environment),
        "interfaces": _interfaces(),
        "simulated-devices": examination.local,
    }
    if seen is not None:
        parts |= {"devices": seen.devices, "discovery": seen.discovery, "deployments": seen.deployments, "diagnosis": seen.look}
        parts |= {"enrolments": seen.enrolments}
    texts = [(f"{name}.json", json.dumps(plain(part), indent=1, ensure_ascii=False)) for name, part in parts.items()]
    return texts + [(f"logs/{one.name}.txt", last_lines(examination.home.sim / one.name / LOG)) for one in examination.local[:MOST_LOGS]]


def last_lines(path: Path) -> str:
    """ "" where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LOG_LINES:]) + "\n"


def _versions() -> dict[str, Any]:
    packages = {one.metadata["Name"]: one.version for one in distributions()}
    return {
        "glmfleet": packages.get("glmfleet", "unknown"),
        "protocol": str(SPOKEN),
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "packages": dict(sorted(packages.items())),
    }


def _settings(home: Home, environment: Mapping[str, str]) -> dict[str, Any]:
    """Of other variables of ours only that they are set."""
    told = {name: environment[name] if name in _SHOWN_VARIABLES else "(set)" for name in environment}
    ours = {name: value for name, value in sorted(told.items()) if name in _SHOWN_VARIABLES or name.startswith("GLMFLEET_")}
    folders = sorted(path.name for path in home.path.iterdir()) if home.path.is_dir() else []
    return {"home": str(home.path), "folders": folders, "environment": ours}


def _interfaces() -> list[Any]:
    try:
        return list(read_adapters())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
