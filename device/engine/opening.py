"""Stages by onnxruntime."""

from __future__ import annotations

from pathlib import Path

from device.engine.engine import Engine, Output, Runtime
from device.engine.golden import check_head, check_stage
from device.engine.prepacked import Prepacked
from device.engine.stage import OutputHead, StageEngine
from device.stage_spec import StageSpec
from protos.dialects import DIALECT
from protos.errors import InvalidInput


def open_stage(spec: StageSpec, blob_folder: Path, threads: int, saved: Prepacked | None) -> tuple[Engine, Output | None]:
    """By onnxruntime; the output head is None on all stages but the first. Raises InvalidInput for a stage of programs, Corrupt for one
    that fails its golden check."""
    if spec.programs:
        raise InvalidInput("this device runs graphs, and was given programs of a chip", advice="deploy the model again")
    # The head first: while its one large matrix is packed it is there three times, which shows less before the layers are there.
    output = OutputHead(spec, blob_folder, threads, saved.head if saved else None) if spec.is_head else None
    if output:
        check_head(spec, output)
    engine = StageEngine(spec, blob_folder, threads, saved.stage if saved else None)
    check_stage(spec, engine, blob_folder, threads)
    return engine, output


ONNX = Runtime(DIALECT, open_stage, prepacks=True)
