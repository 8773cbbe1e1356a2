"""One definition of the seam: the coordinator, its HTTP client and the fake have the calls of FleetService, as it has them."""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

from fleet.answering.views import GenerateRequest, GenerateResult, TokenChunk
from fleet.cli.client import CoordinatorClient
from fleet.deploying.desired import DEFAULT_POLICY, Policy
from fleet.deploying.views import DeployEvent
from fleet.devices.views import DeviceView
from fleet.planning.plan import PlanRequest
from fleet.principal import ANYONE, LOCAL_ADMIN, Principal
from fleet.service.bound import CALLS
from fleet.service.coordinator import Coordinator
from fleet.service.protocol import Fleet, FleetService
from fleet.telemetry.views import CostRow
from tests.support.fake_coordinator import DEVICE, FakeCoordinator

STREAMS = (AsyncGenerator, AsyncIterator, Generator, Iterator)


def shape(call: Callable[..., Any]) -> tuple[object, ...]:
    """(parameters with types and defaults, one value or a stream, of what): the same for a call and its counterpart without `async`."""
    hints = typing.get_type_hints(call)
    result = hints.pop("return")
    stream = typing.get_origin(result) in STREAMS
    parameters = [(each.name, hints.get(each.name), each.default) for each in inspect.signature(call).parameters.values()]
    return (*parameters, "stream" if stream else "value", typing.get_args(result)[0] if stream else result)


def differences(definition: type, counterpart: type) -> list[str]:
    """Calls that the counterpart lacks or has otherwise, and what it has beyond them that looks like one."""
    names = {name for name in vars(definition) if not name.startswith("_")}
    have = {name for name in vars(counterpart) if not name.startswith("_")}
    return sorted(name for name in names if name not in have or shape(getattr(definition, name)) != shape(getattr(counterpart, name)))


def kind(call: Callable[..., Any]) -> str:
    stream = typing.get_origin(typing.get_type_hints(call)["return"]) in STREAMS
    return "stream" if stream else "async" if inspect.iscoroutinefunction(call) else "plain"


def test_there_are_calls() -> None:
    assert {"devices", "deploy", "generate", "telemetry"} <= CALLS
    assert all(inspect.isfunction(getattr(FleetService, name)) for name in CALLS)


@pytest.mark.parametrize("counterpart", [Coordinator, FakeCoordinator, CoordinatorClient])
def test_a_counterpart_has_the_calls_as_they_are_defined(counterpart: type) -> None:
    assert differences(FleetService, counterpart) == []


@pytest.mark.parametrize("counterpart", [Coordinator, FakeCoordinator])
def test_what_stands_behind_the_api_waits_where_it_says_so(counterpart: type) -> None:
    assert differences(Fleet, counterpart) == []
    assert {name: kind(getattr(counterpart, name)) for name in CALLS} == {name: kind(getattr(FleetService, name)) for name in CALLS}


def test_the_client_calls_nothing_that_is_not_defined() -> None:
    assert {name for name in vars(CoordinatorClient) if not name.startswith("_")} == CALLS


class _Drifted(CoordinatorClient):
    def devices(self, state: str = "online") -> list[DeviceView]:  # a parameter more
        return []

    def undeploy(self, deployment: str) -> None:  # another name
        pass

    def telemetry(self, since_seconds: int, by: str) -> list[CostRow]:  # type: ignore[override]  # another type
        return []

    def discovery(self) -> list[DeviceView]:  # type: ignore[override]  # of something else
        return []

    def deploy(
        self, request: PlanRequest, name: str | None = "x", replicas: int = 1, policy: Policy = DEFAULT_POLICY
    ) -> Generator[DeployEvent]:  # another default
        yield from ()

    def generate(self, request: GenerateRequest) -> list[TokenChunk | GenerateResult]:  # type: ignore[override]  # no stream
        return []


def test_each_way_to_drift_is_seen() -> None:
    drifted = differences(FleetService, _Drifted)
    assert set(drifted) >= {"devices", "undeploy", "telemetry", "discovery", "deploy", "generate"}
    assert "models" in differences(FleetService, type("Empty", (), {}))


def test_a_call_is_known_to_be_its_caller_s(caplog: pytest.LogCaptureFixture) -> None:
    coordinator = FakeCoordinator()
    with caplog.at_level(logging.DEBUG, "fleet.service.bound"):
        assert coordinator.as_(LOCAL_ADMIN).devices() == [DEVICE]
        assert coordinator.as_(ANYONE).ready()
    assert coordinator.callers == [LOCAL_ADMIN, ANYONE]
    assert [record.getMessage() for record in caplog.records] == ["local (admin) calls devices", "anyone (anyone) calls ready"]


async def test_arguments_and_streams_pass_through() -> None:
    coordinator = FakeCoordinator()
    service = coordinator.as_(Principal("somebody", "operator"))
    await service.undeploy("tiny")
    parts = service.generate(GenerateRequest(prompt="hi"))
    assert isinstance(await anext(parts), TokenChunk)
    await parts.aclose()  # type: ignore[attr-defined]
    assert coordinator.asked == ["tiny", GenerateRequest(prompt="hi")]
    assert coordinator.closed == 1


def test_nothing_but_the_calls_is_reached() -> None:
    service = FakeCoordinator().as_(LOCAL_ADMIN)
    for name in ("found", "as_", "__aenter__", "_play"):
        with pytest.raises(AttributeError):
            getattr(service, name)
