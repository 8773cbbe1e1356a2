"""What `glmfleet top` shows of one look at the fleet: lines that fit the terminal, the rest counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fleet.answering.views import RequestView
from fleet.cli.devices import kind
from fleet.cli.output import NONE, count_text, figure, in_order
from fleet.deploying.views import DeploymentView, PipelineView
from fleet.devices.views import DeviceView
from protos.sizes import bytes_text

Order = Literal["name", "watts", "heat", "memory"]

_COLOURS = {
    **dict.fromkeys(("online", "ready", "running"), "green"),
    **dict.fromkeys(("suspect", "deploying", "waiting", "repairing", "attaching", "recovering", "accepted"), "yellow"),
    **dict.fromkeys(("offline", "degraded", "unreadable"), "red"),
}
_GIVE_WAY = ("device", "pipeline", "stages")
_MOST_PIPELINES, _MOST_REQUESTS = 6, 6
_TOP = 6  # lines, where the terminal is narrow: of the problem and the summary, a blank, and the title of the devices


@dataclass(frozen=True)
class Look:
    """At one moment (unix seconds). `rates`: tokens a second by pipeline, since the look before."""

    at: float
    devices: Sequence[DeviceView]
    deployments: Sequence[DeploymentView]
    requests: Sequence[RequestView]
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def open(self) -> list[RequestView]:
        return [one for one in self.requests if one.state != "ended"]

    @property
    def watts(self) -> dict[str, float]:
        """By source: figures that are known in different ways are never added."""
        found: dict[str, float] = {}
        for device in self.devices:
            if device.power_watts is not None:
                found[device.energy_source] = found.get(device.energy_source, 0.0) + device.power_watts
        return found


def rates(before: Look | None, requests: Sequence[RequestView], at: float) -> dict[str, float]:
    """Tokens a second that requests were given since `before`, by pipeline; nothing for the first look."""
    if before is None or at <= before.at:
        return {}
    had = {one.request_id: one.completion_tokens for one in before.requests}
    found: dict[str, float] = {}
    for one in requests:
        given = one.completion_tokens - had.get(one.request_id, 0 if one.accepted_at >= before.at else one.completion_tokens)
        if given > 0:
            found[one.pipeline_id] = found.get(one.pipeline_id, 0.0) + given / (at - before.at)
    return found


def as_json(look: Look) -> dict[str, object]:
    """The documented object of `glmfleet top --json`."""
    return {
        "at": look.at,
        "watts": look.watts,
        "tokens_per_second": dict(look.rates),
        "requests": look.open,
        "deployments": look.deployments,
        "devices": look.devices,
    }


def view(look: Look, problem: str, order: Order, lines: int | None) -> RenderableType:
    """`problem`: why nothing newer is known, "" where it is; `lines`: of the terminal, None: as many as there are."""
    parts: list[RenderableType] = [Text(problem, style="bold red")] if problem else []
    parts += [_summary(look), Text()]
    pipelines = [(one, pipeline) for one in look.deployments for pipeline in one.pipelines]
    used = _TOP + _height(len(pipelines), _MOST_PIPELINES) + _height(len(look.open), _MOST_REQUESTS)
    if pipelines:
        parts += [_pipelines(pipelines[:_MOST_PIPELINES], look), *_more(len(pipelines) - _MOST_PIPELINES, "pipeline"), Text()]
    if look.open:
        parts += [_requests(look.open[:_MOST_REQUESTS], look.at), *_more(len(look.open) - _MOST_REQUESTS, "request"), Text()]
    shown = sorted(look.devices, key=_KEYS[order])
    if lines is not None and used + len(shown) > lines:
        shown = shown[: max(1, lines - used - 1)]
    if shown:
        parts += [_devices(shown), *_more(len(look.devices) - len(shown), "device")]
    return Group(*parts)


def _height(count: int, most: int) -> int:
    """Of a part with its title, what is counted, and the blank behind it."""
    return 0 if not count else min(count, most) + 2 + (count > most)


_KEYS = {
    "name": lambda one: (0.0, in_order(one.name)),
    "watts": lambda one: (-(one.power_watts or 0.0), in_order(one.name)),
    "heat": lambda one: (-(one.temperature_celsius or 0.0), in_order(one.name)),
    "memory": lambda one: (-float(one.memory_used_bytes), in_order(one.name)),
}


def _summary(look: Look) -> Text:
    states = Counter(device.state for device in look.devices)
    told = ", ".join(f"{states[state]:,} {state}" for state in ("online", "suspect", "offline") if states[state])
    heat = max((one.temperature_celsius for one in look.devices if one.temperature_celsius is not None), default=None)
    waiting = sum(one.state != "running" for one in look.open)
    parts = [
        time.strftime("%H:%M:%S", time.localtime(look.at)),
        f"{count_text(len(look.devices), 'device')}{': ' if told else ''}{told}",
        *(f"{figure(watts)} W {source}" for source, watts in sorted(look.watts.items())),
        f"hottest {figure(heat)} °C" if heat is not None else "",
        f"{figure(sum(look.rates.values()))} tokens/s",
        f"{len(look.open) - waiting} running, {waiting} waiting",
    ]
    return Text("  ".join(filter(None, parts)), style="bold")


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Where the terminal is too narrow, names and words give way (see `_cut`), never figures."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    for title in columns:
        table.add_column(title, justify="right" if title in right else "left", no_wrap=title not in _GIVE_WAY)
    return table


def _cut(text: str) -> Text:
    """On one line, as much of it as there is room; no markup."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def _state(state: str) -> Text:
    return Text(state, style=_COLOURS.get(state, ""))


def _pipelines(pipelines: Sequence[tuple[DeploymentView, PipelineView]], look: Look) -> Table:
    table = _table("pipeline", "state", "tokens/s", "stages", right=["tokens/s"])
    for _, one in pipelines:
        stages = " > ".join(stage.device_name for stage in one.stages)
        rate = figure(look.rates.get(one.pipeline_id, 0.0))
        table.add_row(_cut(one.pipeline_id), _state(one.state), rate, _cut(f"{stages}{': ' if one.detail else ''}{one.detail}"))
    return table


def _requests(requests: Sequence[RequestView], now: float) -> Table:
    table = _table("request", "state", "prompt", "answer", "age s", "pipeline", right=["prompt", "answer", "age s"])
    for one in requests:
        age = f"{max(0.0, now - one.accepted_at):.0f}"
        row = (Text(one.request_id[:12]), _state(one.state), str(one.prompt_tokens), str(one.completion_tokens), age)
        table.add_row(*row, _cut(one.pipeline_id or NONE))
    return table


def _devices(devices: Sequence[DeviceView]) -> Table:
    table = _table("device", "kind", "state", "W", "°C", "memory", "of", "stages", right=["W", "°C", "memory", "of"])
    for one in devices:
        heat = Text(figure(one.temperature_celsius), style="red" if one.throttled else "")
        memory = (bytes_text(one.memory_used_bytes), bytes_text(one.memory_bytes))
        what = "; ".join(one.stages) or one.detail
        table.add_row(_cut(one.name), kind(one), _state(one.state), figure(one.power_watts), heat, *memory, _cut(what))
    return table


def _more(left: int, noun: str) -> list[RenderableType]:
    return [Text(f"and {count_text(left, noun)} more", style="dim")] if left > 0 else []
