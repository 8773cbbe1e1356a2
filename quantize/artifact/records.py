"""What is known of a model version beside its manifest, which must not change its identity: whence it came, how good it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from protos.ids import Digest
from quantize.files import StagedFile, no_space_as_ours
from quantize.quality.report import QualityReport, parse_report

_SOURCE, _QUALITY, PLOT = "source.json", "quality.json", "quality.svg"


@dataclass(frozen=True)
class Source:
    """The checkpoint on this machine; `pulled` is the name that `model pull` gets it by again, "" for one that was imported; `adapter` is
    the folder of a LoRA adapter that was merged into it, "" without one."""

    path: str
    pulled: str = ""
    adapter: str = ""


class Records:
    """`root`/<manifest digest>/: source.json, quality.json, quality.svg, each there or not. Never sent to a device."""

    def __init__(self, root: Path) -> None:
        self.folder = root

    def source(self, model: Digest) -> Source | None:
        """None when nothing readable is recorded."""
        try:
            return Source(**json.loads(self._path(model, _SOURCE).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def quality(self, model: Digest) -> QualityReport | None:
        """None when it was never measured. Raises Corrupt."""
        try:
            data = self._path(model, _QUALITY).read_bytes()
        except FileNotFoundError:
            return None
        return parse_report(data)

    def plot(self, model: Digest) -> Path | None:
        path = self._path(model, PLOT)
        return path if path.exists() else None

    def save_source(self, model: Digest, source: Source) -> None:
        """Raises NoSpace."""
        self._write(model, _SOURCE, json.dumps(asdict(source)).encode())

    def save_quality(self, model: Digest, report: QualityReport, plot: str) -> None:
        """In the place of what was measured before. Raises NoSpace."""
        self._write(model, PLOT, plot.encode())
        self._write(model, _QUALITY, report.to_bytes())

    def retain(self, models: Collection[Digest]) -> None:
        """Forgets all other versions."""
        for folder in self.folder.glob("*"):
            if folder.name not in models:
                shutil.rmtree(folder, ignore_errors=True)

    def _path(self, model: Digest, file: str) -> Path:
        return self.folder / model / file

    def _write(self, model: Digest, file: str, data: bytes) -> None:
        folder = self.folder / model
        with no_space_as_ours(self.folder):
            folder.mkdir(parents=True, exist_ok=True)
            with StagedFile(folder) as staged:
                staged.write(data)
                staged.commit(folder / file)
