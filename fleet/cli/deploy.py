"""Commands for deployments: plan, deploy, undeploy, deployments."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Annotated

import typer

from fleet.cli.client import CoordinatorClient, connect
from fleet.cli.options import HomeOption, JsonOption, open_home, parse_names
from fleet.cli.output import count_text, figure, note, print_json, say
from fleet.cli.progress import progress
from fleet.cli.tables import Column, print_table
from fleet.deploying.balancing import not_deployed
from fleet.deploying.desired import REPLAN_AFTER_SECONDS, Policy
from fleet.deploying.views import DeployEvent, DeploymentView
from fleet.planning.plan import Objective, Plan, PlanRequest, StagePlan
from fleet.planning.standby import lines as standby_lines
from protos.decoding import DecodeMode
from protos.dtypes import KvDtype, WireDtype
from protos.errors import Internal, NotFound
from protos.sizes import bytes_text

TAKE_BACK_SECONDS = 60.0  # a stage that is being loaded is loaded to its end first
_POLL_SECONDS = 0.1

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model of `glmfleet model list`.")]
StagesOption = Annotated[
    int | None, typer.Option("--stages", min=1, help="Cut the model into so many (default: as few as fit).", show_default=False)
]
ContextOption = Annotated[
    int | None,
    typer.Option("--context", min=2, help="Tokens a sequence may take (default: the model's, at most 4096).", show_default=False),
]
SlotsOption = Annotated[int, typer.Option("--slots", min=1, help="Sequences at once.")]
ObjectiveOption = Annotated[Objective, typer.Option("--objective", help="What the plan is best at.")]
KvOption = Annotated[KvDtype, typer.Option("--kv", help="Type of the KV cache; int8 takes a quarter of the memory.")]
WireOption = Annotated[
    WireDtype, typer.Option("--wire", help="Type of rows between devices; smaller than float32, the text may depend on the cut.")
]
DecodeOption = Annotated[
    DecodeMode, typer.Option("--decode", help="By single rows, or by runs of two and more, where drafts are verified exactly.")
]
StandbyOption = Annotated[
    int, typer.Option("--standby", min=0, max=64, help="So many spare devices keep stages loaded, to take over from one that is lost.")
]
DevicesOption = Annotated[
    str | None, typer.Option("--devices", metavar="A,B", help="Only these, by name, id or label (key=value).", show_default=False)
]


def plan(
    model: ModelArgument,
    objective: ObjectiveOption = "latency",
    stages: StagesOption = None,
    context: ContextOption = None,
    slots: SlotsOption = 16,
    devices: DevicesOption = None,
    kv: KvOption = "float32",
    wire: WireOption = "float32",
    decode: DecodeOption = "rows",
    standby: StandbyOption = 0,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show how a model would be spread over the devices, and why.

    Example: glmfleet plan smollm2-135m --stages 3
    """
    request = PlanRequest(model, objective, stages, context, slots, parse_names(devices), kv, wire, decode)
    with connect(open_home(home)) as coordinator:
        made = coordinator.plan(request, standby)
    if as_json:
        print_json(made)
    else:
        print_plan(made)


def deploy(
    model: ModelArgument,
    name: Annotated[str | None, typer.Option("--name", help="The deployment's name (default: MODEL).", show_default=False)] = None,
    objective: ObjectiveOption = "latency",
    stages: StagesOption = None,
    context: ContextOption = None,
    slots: SlotsOption = 16,
    devices: DevicesOption = None,
    kv: KvOption = "float32",
    wire: WireOption = "float32",
    decode: DecodeOption = "rows",
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="So many pipelines, each on devices of its own.")] = 1,
    replan_after: Annotated[
        str, typer.Option("--replan-after", help="Seconds without a device until its pipeline is moved to others, or: never.")
    ] = f"{REPLAN_AFTER_SECONDS:g}",
    standby: StandbyOption = 0,
    recovery: Annotated[
        str,
        typer.Option(
            "--recovery", help="How a broken answer goes on: exact, fast (its text may differ by rounding), or SECONDS for exact."
        ),
    ] = "exact",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Push a model to the devices and make it ready. Ctrl-C takes back what was done.

    Example: glmfleet deploy smollm2-135m --stages 3 --context 2048
    """
    request = PlanRequest(model, objective, stages, context, slots, parse_names(devices), kv, wire, decode)
    policy = Policy(replan_after_seconds=_replan_after(replan_after), standby=standby, exact_within_seconds=_exact_within(recovery))
    with connect(open_home(home)) as coordinator, closing(coordinator.deploy(request, name, replicas, policy)) as events:
        if not as_json:
            _say_what_is_replaced(coordinator, name or model)
        try:
            ready = follow(events, on_plan=_ignore if as_json else _Placements(replicas).show)
        except KeyboardInterrupt:
            events.close()
            _wait_taken_back(coordinator, name or model)
            raise
        view = next((view for view in coordinator.deployments() if view.name == ready.deployment), None)
        if view is None:
            raise NotFound(f"{ready.deployment} was ready, and was undeployed meanwhile")
        if as_json:
            print_json(view)
        else:
            if view.standby_detail:
                note(f"it has {view.standby_detail}")
            note(f"{view.name} is ready; {_next_step(coordinator, view)}")


def _replan_after(text: str) -> float | None:
    if text == "never":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not (0 < seconds < math.inf):
        raise typer.BadParameter(f"{text!r} is neither seconds above 0 nor the word never; write for example --replan-after 300")
    return seconds


def _exact_within(text: str) -> float | None:
    if text in ("exact", "fast"):
        return None if text == "exact" else 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not (0 <= seconds < math.inf):
        raise typer.BadParameter(f"{text!r} is neither exact, fast, nor seconds; write for example --recovery 5")
    return seconds


def _next_step(coordinator: CoordinatorClient, view: DeploymentView) -> str:
    if any(stage.hollow for stage in view.stages):
        return "it answers no prompt, since its devices compute nothing"
    if any(model.name == view.model and model.fills_blanks for model in coordinator.models()):
        return 'ask it: glmfleet generate --infill "text with a [MASK]"'
    return "talk to it: glmfleet chat" + (f" --model {view.name}" if len(coordinator.deployments()) > 1 else "")


def _say_what_is_replaced(coordinator: CoordinatorClient, name: str) -> None:
    before = next((view for view in coordinator.deployments() if view.name == name and view.pipelines), None)
    if before is not None:
        note(f"this replaces {name}, {count_text(len(before.pipelines), 'pipeline')} on {_devices(before)}")


class _Placements:
    """Shows the plans of a deployment as they come, numbered where there are several, and why the first is as it is."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._shown = 0

    def show(self, made: Plan) -> None:
        self._shown += 1
        if self._count > 1:
            say(f"pipeline {self._shown} of {self._count}:")
        if self._shown == 1:
            print_plan(made)
        else:
            print_placement(made)


def undeploy(name: Annotated[str, typer.Argument(help="A deployment of `glmfleet deployments`.")], home: HomeOption = None) -> None:
    """Unload a deployment from its devices.

    Example: glmfleet undeploy smollm2-135m
    """
    with connect(open_home(home)) as coordinator:
        coordinator.undeploy(name)
    note(f"{name} is gone")


def deployments(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List deployments.

    Example: glmfleet deployments --json
    """
    with connect(open_home(home)) as coordinator:
        found = coordinator.deployments()
        if not found and not as_json:
            note(f"nothing is deployed; {not_deployed(None, (), [each.name for each in coordinator.models()]).advice}")
            return
    if as_json:
        print_json(found)
        return
    columns = [
        Column("name", "names"),
        Column("model", "names"),
        Column("state"),
        Column("context", "figure"),
        Column("slots", "figure"),
        Column("devices", "names"),
    ]
    rows = [[view.name, view.model or "-", view.state, str(view.context or "-"), str(view.slots or "-"), _devices(view)] for view in found]
    print_table(columns, rows)
    for view in found:
        if len(view.pipelines) > 1:
            for pipeline in view.pipelines:
                devices = ", ".join(stage.device_name for stage in pipeline.stages)
                note(f"  {pipeline.pipeline_id} ({devices}): {pipeline.state}{': ' if pipeline.detail else ''}{pipeline.detail}")
        elif view.detail:
            note(f"{view.name}: {view.detail}")
        for line in _standbys(view):
            note(line)


def _standbys(view: DeploymentView) -> list[str]:
    """A line for each device that stands by, and one that says why there are not more."""
    found = []
    for pipeline in view.pipelines:
        for one in pipeline.standbys:
            stages = count_text(len(one.stages), "stage") if len(one.stages) < len(pipeline.stages) else "all stages"
            why = f" ({one.detail})" if one.detail else ""
            found.append(f"{pipeline.pipeline_id}: {one.device_name} stands by for {stages}: {one.state}{why}")
    return [*found, f"{view.name} has {view.standby_detail}"] if view.standby_detail else found


def _devices(view: DeploymentView) -> str:
    """Of each pipeline, with "|" between them."""
    return " | ".join(", ".join(stage.device_name for stage in pipeline.stages) for pipeline in view.pipelines) or "-"


def follow(events: Iterable[DeployEvent], *, on_plan: Callable[[Plan], None]) -> DeployEvent:
    """Show a deployment as it goes; returns its last event, "ready". The plan, which comes first, is `on_plan`'s to show."""
    last: DeployEvent | None = None
    loaded: list[str] = []
    with progress(of_bytes=True) as report:
        for event in events:
            last = event
            if event.kind == "plan" and event.plan is not None:
                on_plan(event.plan)
            elif event.kind == "push" and event.total_bytes:
                report(f"push to {event.device_name}", event.done_bytes, event.total_bytes)
            elif event.kind == "load":
                loaded.append(f"{event.device_name} {figure(event.seconds)} s" if event.seconds else event.device_name)
    if loaded:
        note(f"loaded: {', '.join(loaded)}")
    if last is None or last.kind != "ready":
        raise Internal("the deployment ended without being ready")
    return last


def print_plan(made: Plan) -> None:
    """The placement, and why it is so."""
    print_placement(made)
    say("why:")
    for line in made.why:
        if line not in standby_lines(made):  # told already
            say(f"  - {line}")


def print_placement(made: Plan) -> None:
    slots = made.groups * made.slots_per_group
    say(f"{made.model} on {count_text(len(made.stages), 'device')}: context {made.context}, {count_text(slots, 'sequence')} at once")
    columns = [
        Column("device", "names"),
        Column("profile"),
        Column("layers"),
        Column("weights", "figure"),
        Column("KV cache", "figure"),
        Column("to push", "figure"),
    ]
    rows = [
        [
            stage.device_name,
            stage.profile,
            _layers(stage),
            bytes_text(stage.weight_bytes),
            bytes_text(stage.kv_bytes),
            bytes_text(stage.push_bytes),
        ]
        for stage in made.stages
    ]
    print_table(columns, rows)
    cost = f", {figure(made.joules_per_token)} J/token" if made.joules_per_token is not None else ""
    say(f"predicted for one stream: {figure(made.decode_tokens_per_second)} tokens/s{cost}")
    for line in standby_lines(made):
        say(line)


def _wait_taken_back(coordinator: CoordinatorClient, name: str) -> None:
    """So that the command can be given again, and nothing is on the devices, when the prompt is back. A second Ctrl-C does not wait."""
    note("\ntaking back what was done ...")
    deadline = time.monotonic() + TAKE_BACK_SECONDS
    while any(view.name == name and view.state == "deploying" for view in coordinator.deployments()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _ignore(_made: Plan) -> None:
    pass


def _layers(stage: StagePlan) -> str:
    extra = " + head" if "head" in stage.parts else ""
    return f"{stage.first_layer}-{stage.stop_layer - 1}{extra}"
