"""The tiny original GLM of tests/goldens/glm2b-tiny, and what THUDM's own code computes for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from protos.manifest import Manifest
from protos.v1 import pipeline_pb2
from quantize.artifact.store import ArtifactStore
from quantize.checkpoints.huggingface import open_huggingface
from quantize.importing.importer import import_model

GOLDEN = Path(__file__).resolve().parents[1] / "goldens" / "glm2b-tiny"
STOPS = (502, 500)


@dataclass(frozen=True)
class Expected:
    """One prompt: `ids` are the prefix, <|startofpiece|> and 31 greedy tokens; `greedy` the 32 that follow row `prefix` on."""

    prefix: int
    blank: int
    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]  # [ids, 2]
    logits: npt.NDArray[np.float32]  # [ids, V]
    greedy: list[int]
    margins: npt.NDArray[np.float32]

    @property
    def prompt(self) -> list[int]:
        return [int(number) for number in self.ids[: self.prefix + 1]]

    @property
    def spans(self) -> list[pipeline_pb2.Span]:
        return [pipeline_pb2.Span(start=self.prefix, anchor=self.blank)]


@cache
def expected() -> list[Expected]:
    with np.load(GOLDEN / "expected.npz") as arrays:
        return [
            Expected(
                int(arrays[f"sep_{k}"]),
                int(arrays[f"mask_pos_{k}"]),
                arrays[f"sequence_{k}"],
                arrays[f"position_ids_{k}"].T,
                arrays[f"logits_{k}"],
                arrays[f"greedy_{k}"].tolist(),
                arrays[f"margin_{k}"],
            )
            for k in range(5)
        ]


def blank_model(folder: Path, bits: Literal[8, 32] = 8, block_size: int | None = None) -> tuple[Manifest, ArtifactStore]:
    store = ArtifactStore(folder / "artifacts")
    with open_huggingface(GOLDEN) as checkpoint:
        return import_model(checkpoint, store, "blanks", bits=bits, block_size=block_size), store
