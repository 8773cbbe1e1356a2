"""A timing model that times a program of each stage, as a compiler would make them: it cannot answer for a stage that it is not told."""

from __future__ import annotations

from dataclasses import dataclass

from protos.physics.costs import StageCost
from protos.physics.timing import Decode, Estimate, Prefill, StageRun

BUCKET = 64  # positions: a program is compiled for caches of whole buckets


@dataclass(frozen=True)
class Compiled:
    """Implements TimingModel. Microseconds by the names of the parts, the rows and the bucket of the context; never by the costs."""

    launch_seconds: float = 1e-3
    idle_watts: float = 1.0

    def estimate(self, run: StageRun) -> Estimate:
        launch = run.launches * self.launch_seconds
        if run == StageRun(StageCost(), launches=run.launches):
            return Estimate(launch, 0.0, {"launch": launch})
        if run.stage is None:
            raise AssertionError(f"no program is known for {run}")
        match run.body:
            case Prefill(start, rows):
                contexts = [start + rows]
            case Decode(positions):
                contexts = list(positions)
            case None:
                contexts = []
        body = [part for part in run.stage.parts if part != "head"]
        layers = sum(self._program(part, run.stage.kv_dtype, position // BUCKET) for part in body for position in contexts)
        head = run.head_rows * self._program("head", "", 0) * ("head" in run.stage.parts)
        return Estimate(launch + layers + head, 2.0 * (layers + head), {"launch": launch, "program": layers + head})

    @staticmethod
    def _program(part: str, kv_dtype: str, bucket: int) -> float:
        return 1e-6 * (sum(f"{part}{kv_dtype}".encode()) % 97 + 1) * (1 + bucket)
