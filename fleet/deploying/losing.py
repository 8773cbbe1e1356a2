"""What deployments lose with a device, in words: for whoever is about to take it out of the fleet."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.deploying.views import DeploymentView, PipelineView
from protos.sizes import bytes_text


def losses(device: str, views: Sequence[DeploymentView]) -> list[str]:
    """A line for each deployment that has a stage on it: what breaks, and until when."""
    return [f"{view.name} {_loss(device, view)}" for view in views if any(_has(one, device) for one in view.pipelines)]


def _loss(device: str, view: DeploymentView) -> str:
    lost = [one for one in view.pipelines if _has(one, device)]
    if all(_covered(one, device) for one in lost):
        seconds = [pause.seconds for one in lost for pause in one.pauses if pause.stage in _stages(one, device)]
        return "pauses" + (f" for about {max(seconds):.0f} s" if seconds else "") + ", then its standby has the place"
    others = sum(one.state == "ready" and one not in lost for one in view.pipelines)
    # A device that has the parts already is sent less, or nothing.
    most = sum(stage.weight_bytes for one in lost for stage in one.stages if stage.device_id == device)
    until = f"until other devices have its stages, which takes sending up to {bytes_text(most)}, if any has the room"
    if others:
        return f"answers with {others} of {len(view.pipelines)} pipelines {until}"
    return f"answers nothing {until}"


def _has(pipeline: PipelineView, device: str) -> bool:
    return any(stage.device_id == device for stage in pipeline.stages)


def _stages(pipeline: PipelineView, device: str) -> set[int]:
    return {number for number, stage in enumerate(pipeline.stages) if stage.device_id == device}


def _covered(pipeline: PipelineView, device: str) -> bool:
    return all(any(one.state == "ready" and number in one.stages for one in pipeline.standbys) for number in _stages(pipeline, device))
