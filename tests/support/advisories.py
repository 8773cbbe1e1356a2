"""`python -m tests.support.advisories`: does a known vulnerability concern what the lock files name? Asks nobody.

The advisories are those of the PyPA advisory database (CC BY 4.0) for the packages we lock, in tests/house/advisories.json with the day
they are of: what was found later is not in it. `--from CLONE` takes them anew from a clone of that database.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = (ROOT / "requirements.lock", ROOT / "requirements-dev.lock")
FILE = ROOT / "tests" / "house" / "advisories.json"


@dataclass(frozen=True)
class Advisory:
    """Concerns `package` from each `introduced` version up to the `fixed` one ("": none yet), and `versions` by name."""

    id: str
    package: str
    ranges: tuple[tuple[str, str], ...]
    versions: tuple[str, ...] = ()

    def concerns(self, version: str) -> bool:
        """
        >>> advisory = Advisory("PYSEC-1", "one", (("1.0", "1.4"),), ("2.0",))
        >>> [advisory.concerns(version) for version in ("0.9", "1.3.9", "1.4", "2.0")]
        [False, True, False, True]
        """
        found = Version(version)
        within = any((low in ("", "0") or found >= Version(low)) and (not fixed or found < Version(fixed)) for low, fixed in self.ranges)
        return within or version in self.versions


def locked(text: str) -> set[tuple[str, str]]:
    return {(canonicalize_name(name), version) for name, version in re.findall(r"(?m)^([\w.-]+)==([^\s;\\]+)", text)}


def findings(packages: set[tuple[str, str]], advisories: Sequence[Advisory]) -> list[str]:
    return sorted(
        f"{name} {version}: {advisory.id}"
        for advisory in advisories
        for name, version in packages
        if advisory.package == name and advisory.concerns(version)
    )


def load(file: Path = FILE) -> tuple[str, list[Advisory]]:
    """The day that they are of, and they."""
    plain = json.loads(file.read_text())
    return plain["date"], [
        Advisory(one["id"], one["package"], tuple((low, fixed) for low, fixed in one["ranges"]), tuple(one["versions"]))
        for one in plain["advisories"]
    ]


def taken(clone: Path, names: set[str]) -> Mapping[str, Any]:
    """Those of a clone that concern these packages."""
    head = _git(clone, "log", "-1", "--format=%cs").strip()
    found = []
    for path in _git(clone, "ls-tree", "-r", "--name-only", "HEAD", "vulns/").splitlines():
        if canonicalize_name(path.split("/")[1]) in names:
            found += list(_read(_git(clone, "show", f"HEAD:{path}"), canonicalize_name(path.split("/")[1])))
    return {
        "source": "PyPA advisory database, CC BY 4.0",
        "date": head,
        "advisories": sorted(found, key=lambda one: (one["package"], one["id"])),
    }


def _read(text: str, package: str) -> Iterator[dict[str, Any]]:
    """Of OSV's YAML, the events of ECOSYSTEM ranges; the listed versions only where no range says them."""
    plain = yaml.safe_load(text)
    if "withdrawn" in plain:
        return
    for affected in plain.get("affected", []):
        ranges = []
        for one in affected.get("ranges", []):
            if one["type"] == "ECOSYSTEM":
                low = ""
                for event in one["events"]:
                    low = event.get("introduced", low)
                    if "fixed" in event:
                        ranges.append([low, event["fixed"]])
                        low = ""
                if low:
                    ranges.append([low, ""])
        usable = [pair for pair in ranges if all(_is_version(each) for each in pair if each)]
        versions = [] if usable else [str(version) for version in affected.get("versions", [])]
        yield {"id": " ".join([plain["id"], *plain.get("aliases", [])]), "package": package, "ranges": usable, "versions": versions}


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _git(clone: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(clone), *words], capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="clone", type=Path, metavar="CLONE")
    options = parser.parse_args()
    packages = set().union(*(locked(lock.read_text()) for lock in LOCKS))
    if options.clone:
        FILE.write_text(json.dumps(taken(options.clone, {name for name, _ in packages}), indent=1) + "\n")
    date, advisories = load()
    found = findings(packages, advisories)
    for line in found:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(
        f"{len(found)} of {len(advisories)} advisories, known on {date}, concern the {len(packages)} versions that are locked\n"
    )
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
