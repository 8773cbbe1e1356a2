"""A timing model that the roofline cannot be: a program compiled for caches of whole pages, whose time rises in steps of the context."""

from __future__ import annotations

from dataclasses import dataclass

from protos.physics.timing import Decode, Estimate, Prefill, StageRun

PAGE = 32  # positions


@dataclass(frozen=True)
class Paged:
    """Implements TimingModel. A row takes `page_seconds` for each page of its context and operator of the stage, at 2 W above idling."""

    page_seconds: float = 1e-5
    launch_seconds: float = 1e-3
    idle_watts: float = 1.0

    def estimate(self, run: StageRun) -> Estimate:
        match run.body:
            case Prefill(start, rows):
                contexts = [start + row + 1 for row in range(rows)]
            case Decode(positions):
                contexts = [position + 1 for position in positions]
            case None:
                contexts = []
        pages = sum(-(-context // PAGE) for context in contexts)
        layers = pages * run.cost.operators * self.page_seconds
        head = run.head_rows * run.cost.head_operators * self.page_seconds
        launch = run.launches * self.launch_seconds
        return Estimate(launch + layers + head, 2.0 * (layers + head), {"launch": launch, "pages": layers, "head": head})
