"""Which pipeline of a deployment a request goes to: a pure function of what they are doing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from fleet.deploying.desired import PipelineSpec
from fleet.deploying.phase import PipelineState, Ready
from protos.errors import Unavailable


class Choosable(Protocol):
    """What is looked at of a pipeline when a request comes."""

    @property
    def spec(self) -> PipelineSpec: ...

    @property
    def state(self) -> PipelineState: ...

    @property
    def predicted_wait(self) -> float: ...


_P = TypeVar("_P", bound=Choosable)


def least_work(name: str, pipelines: Iterable[_P], avoid: frozenset[str] = frozenset()) -> _P:
    """Of the pipelines of deployment `name` that answer, the one with the least outstanding work; ties go to the lowest id.

    Where none answers, one that does not: what it says tells why. `avoid`: ids that have failed this request. Raises Unavailable when none
    is left.
    """
    left = [pipeline for pipeline in pipelines if pipeline.spec.pipeline_id not in avoid]
    if not left:
        raise Unavailable(f"no other pipeline of {name} is left", retry_after_seconds=1.0)
    return min(left, key=lambda each: (not isinstance(each.state, Ready), each.predicted_wait, each.spec.pipeline_id))
