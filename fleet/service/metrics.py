"""The fleet as Prometheus reads it: devices, deployments and requests now, and what has been counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet.answering.views import RequestView
from fleet.deploying.views import DeploymentView
from fleet.devices.views import DeviceView
from fleet.telemetry.records import source_of
from protos.v1 import telemetry_pb2 as pb

DEVICE_STATES = ("online", "suspect", "offline")
DEPLOYMENT_STATES = ("deploying", "ready", "degraded", "unreadable")
OPEN_STATES = ("accepted", "running", "recovering")


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(families: Iterable[Metric], counted: CollectorRegistry) -> str:
    """Prometheus' text format."""
    now = CollectorRegistry(auto_describe=False)
    now.register(_Families(list(families)))
    return (generate_latest(now) + generate_latest(counted)).decode()


def families(
    devices: Sequence[DeviceView],
    deployments: Sequence[DeploymentView],
    requests: Sequence[RequestView],
    samples: Mapping[str, pb.TelemetrySample],
) -> Iterator[Metric]:
    """`samples`: the last of each device by its id. Hollow devices are counted, not listed: there may be thousands."""
    yield InfoMetricFamily("glmfleet", "This coordinator.", {"version": version("glmfleet")})
    yield _count("glmfleet_devices", "Devices of the fleet.", DEVICE_STATES, [view.state for view in devices])
    yield _count("glmfleet_deployments", "Deployments.", DEPLOYMENT_STATES, [view.state for view in deployments])
    yield _count("glmfleet_open_requests", "Requests on their way.", OPEN_STATES, [view.state for view in requests])
    ready = GaugeMetricFamily("glmfleet_deployment_ready", "1: it answers.", labels=("deployment", "model"))
    for deployment in deployments:
        ready.add_metric((deployment.name, deployment.model), float(deployment.state == "ready"))
    yield ready
    listed = [view for view in devices if not view.hollow]
    yield from _gauges(listed)
    yield from _counters([(view.name, samples[view.device_id]) for view in listed if view.device_id in samples])


def _count(name: str, what: str, states: Sequence[str], found: Sequence[str]) -> Metric:
    """One for each state, also for those in which there is none: an alarm waits for it."""
    counts = Counter(found)
    family = GaugeMetricFamily(name, what, labels=("state",))
    for state in states:
        family.add_metric((state,), counts[state])
    return family


def _gauges(devices: Sequence[DeviceView]) -> Iterator[Metric]:
    info = InfoMetricFamily("glmfleet_device", "What a device is.", labels=("device",))
    up = GaugeMetricFamily("glmfleet_device_up", "1: it is online.", labels=("device",))
    watts = GaugeMetricFamily("glmfleet_device_power_watts", "Mean of about a second.", labels=("device", "source"))
    celsius = GaugeMetricFamily("glmfleet_device_temperature_celsius", "Of the chip.", labels=("device",))
    throttled = GaugeMetricFamily("glmfleet_device_throttled", "1: it runs slower, to cool down.", labels=("device",))
    battery = GaugeMetricFamily("glmfleet_device_battery_ratio", "What is left of its battery, 0 to 1.", labels=("device",))
    memory = GaugeMetricFamily(
        "glmfleet_device_memory_bytes",
        "limit: that it may use; promised: to its stages; held: that it really holds.",
        labels=("device", "kind"),
    )
    stages = GaugeMetricFamily("glmfleet_device_stages", "Stages that it holds.", labels=("device",))
    for view in devices:
        name = (view.name,)
        told = {"device_id": view.device_id, "profile": view.profile, "simulated": str(view.simulated).lower()}
        info.add_metric(name, {**told, "agent_version": view.agent_version})
        up.add_metric(name, float(view.state == "online"))
        memory.add_metric((*name, "limit"), view.memory_bytes)
        memory.add_metric((*name, "promised"), view.memory_used_bytes)
        stages.add_metric(name, len(view.stages))
        throttled.add_metric(name, float(view.throttled))
        # What nobody measured has no series: it is not 0.
        for family, labels, value in (
            (memory, (*name, "held"), view.memory_held_bytes),
            (watts, (*name, view.energy_source), view.power_watts if view.energy_source != "unmetered" else None),
            (celsius, name, view.temperature_celsius),
            (battery, name, view.battery_fraction),
        ):
            if value is not None:
                family.add_metric(labels, value)
    yield from (info, up, watts, celsius, throttled, battery, memory, stages)


def _counters(samples: Sequence[tuple[str, pb.TelemetrySample]]) -> Iterator[Metric]:
    """They begin at 0 when a device's agent starts, as Prometheus expects of counters."""
    joules = CounterMetricFamily(
        "glmfleet_device_energy_joules", "busy: while a step ran; idle: between steps.", labels=("device", "state", "source")
    )
    tokens = CounterMetricFamily("glmfleet_device_rows", "Rows of tokens that its stages computed.", labels=("device", "kind"))
    busy = CounterMetricFamily("glmfleet_device_busy_seconds", "While a step ran.", labels=("device", "clock"))
    cpu = CounterMetricFamily("glmfleet_device_process_cpu_seconds", "Of the agent's process.", labels=("device",))
    for name, sample in samples:
        source = source_of(sample.energy.source)
        if source != "unmetered":
            joules.add_metric((name, "busy", source), sample.energy.busy_joules)
            joules.add_metric((name, "idle", source), sample.energy.idle_joules)
        tokens.add_metric((name, "prefill"), sample.work.prefill_tokens)
        tokens.add_metric((name, "decode"), sample.work.decode_tokens)
        busy.add_metric((name, "wall"), sample.work.busy_seconds)
        if sample.work.modelled_busy_seconds:
            busy.add_metric((name, "modelled"), sample.work.modelled_busy_seconds)
        cpu.add_metric((name,), sample.gauges.process_cpu_seconds)
    yield from (joules, tokens, busy, cpu)
