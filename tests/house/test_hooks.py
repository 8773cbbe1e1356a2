"""The hooks of a commit and a push run what CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_every_check_of_ci_is_a_hook() -> None:
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["entry"].removeprefix("make -s ") for hook in repository["hooks"]}
    checks: set[str] = set()
    for line in re.findall(r"^make (.+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE):
        targets, value = re.fullmatch(r"([a-z -]+?)( [A-Z]+=\d+)?", line).groups("")
        checks.update(target + value for target in targets.split())
    assert checks
    assert checks - hooks == set()
