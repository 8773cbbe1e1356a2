"""Which deployment a request means, and which of its pipelines it goes to: pure functions of what they are doing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from fleet.deploying.desired import Desired, PipelineSpec
from fleet.deploying.phase import PipelineState, Ready
from fleet.deploying.stored import Unreadable
from fleet.deploying.views import what_to_do
from protos.errors import Conflict, InvalidInput, NotFound, Unavailable


class Choosable(Protocol):
    """What is looked at of a pipeline when a request comes."""

    @property
    def spec(self) -> PipelineSpec: ...

    @property
    def state(self) -> PipelineState: ...

    @property
    def predicted_wait(self) -> float: ...

    @property
    def leaving(self) -> bool: ...


class Serving(Protocol):
    """A deployment that is in force."""

    @property
    def desired(self) -> Desired: ...

    @property
    def answers(self) -> bool: ...


_P = TypeVar("_P", bound=Choosable)
_D = TypeVar("_D", bound=Serving)


def not_deployed(model: str | None, deployed: Iterable[str], imported: Sequence[str]) -> NotFound:
    """For a request of `model`, which no deployment means; `imported` are the models that could be deployed."""
    what = "no model is deployed" if model is None else f"no model {model!r} is deployed"
    names = ", ".join(sorted(deployed))
    told = f"deployed: {names}" if names else ""
    if model in imported or (not names and imported):
        way = f"deploy it: glmfleet deploy {model}" if model in imported else f"deploy one: glmfleet deploy {imported[0]}"
        return NotFound(what, advice=f"{told}; or {way}" if told else way)
    return NotFound(what, advice=told or "get one first: glmfleet model pull smollm2-135m, then glmfleet deploy smollm2-135m")


def find(
    model: str | None,
    in_force: Mapping[str, _D],
    coming: Sequence[Desired],
    unreadable: Mapping[str, Unreadable],
    imported: Callable[[], Sequence[str]],
) -> _D:
    """The deployment of this name, else of this model, else the only one. Raises NotFound (which names what is `imported`); InvalidInput
    when several are possible; Conflict for one that cannot be read; Unavailable for one of those that are being deployed and do not answer
    yet (`coming`)."""
    if model is not None and model in unreadable and model not in in_force:
        raise Conflict(f"deployment {model} cannot be read: {unreadable[model].why}", advice=what_to_do(unreadable[model]))
    meant = [one for one in in_force.values() if model in (None, one.desired.name, *one.desired.models)]
    if not meant:
        if begun := [one.name for one in coming if model in (None, one.name, *one.models)]:
            raise Unavailable(f"{begun[0]} is being deployed", advice="try again in a moment", retry_after_seconds=1.0)
        raise not_deployed(model, in_force, imported())
    if model is None and len(meant) > 1:
        raise InvalidInput("several models are deployed", advice=f"say which (--model): {', '.join(sorted(in_force))}")
    # A name comes before a model; of several deployments of one model the one that answers, of these the first by name.
    return min(meant, key=lambda one: (one.desired.name != model, not one.answers, one.desired.name))


def least_work(name: str, pipelines: Iterable[_P], avoid: frozenset[str] = frozenset()) -> _P:
    """Of the pipelines of deployment `name` that answer, the one with the least outstanding work; ties go to the lowest id.

    One that is about to leave a device is asked last. Where none answers, one that does not: what it says tells why. `avoid`: ids that have
    failed this request. Raises Unavailable when none is left.
    """
    left = [pipeline for pipeline in pipelines if pipeline.spec.pipeline_id not in avoid]
    if not left:
        raise Unavailable(f"no other pipeline of {name} is left", retry_after_seconds=1.0)
    return min(left, key=lambda each: (not isinstance(each.state, Ready), each.leaving, each.predicted_wait, each.spec.pipeline_id))
