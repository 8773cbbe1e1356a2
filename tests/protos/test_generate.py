"""The committed stubs are what the .proto files give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from protos import generate


def test_the_stubs_have_not_drifted() -> None:
    assert generate.drifted() == [], "run `make protos`"


def test_drift_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(generate.ROOT / generate.FOLDER, tmp_path / generate.FOLDER, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    file = tmp_path / generate.FOLDER / "manifest.proto"
    file.write_text(file.read_text().replace("message Blob {", "message Blob { string added = 99;"))
    assert generate.drifted() == ["protos/v1/manifest_pb2.py", "protos/v1/manifest_pb2.pyi"]
