"""The live view: what one look shows, what does not fit, and a coordinator that goes away."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from fleet.cli.top import Watch
from fleet.cli.top_view import Look, Order, rates, view
from fleet.home import Home
from protos.errors import Unavailable
from tests.support.command import Command
from tests.support.fake_coordinator import DEPLOYMENT, DEVICE, REQUEST, FakeCoordinator

RUNNING = replace(REQUEST, state="running", completion_tokens=3, accepted_at=90.0, ended_at=None, finish_reason=None)


def shown(look: Look, *, problem: str = "", order: Order = "name", lines: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=80, color_system=None, highlight=False)
    console.print(view(look, problem, order, lines))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in text.splitlines())
    return [line.rstrip() for line in text.splitlines()]


def a_look(count: int = 1, requests: int = 1) -> Look:
    devices = [
        replace(DEVICE, device_id=f"d{one}", name=f"dev-{one}", power_watts=float(one), temperature_celsius=40.0)
        for one in range(1, count + 1)
    ]
    return Look(100.0, devices, [DEPLOYMENT], [replace(RUNNING, request_id=f"r{one}") for one in range(requests)], {"tiny-1": 12.0})


def test_a_look_has_devices_pipelines_and_requests() -> None:
    lines = shown(a_look())
    assert "1 device: 1 online" in lines[0]
    assert "1.00 W modelled" in lines[0]
    assert "12.0 tokens/s" in " ".join(lines[:2])
    assert "1 running, 0 waiting" in " ".join(lines[:2])
    assert any(line.split() == ["tiny-1", "ready", "12.0", "dev-1"] for line in lines)
    assert any(line.split() == ["r0", "running", "4", "3", "10", "tiny-1"] for line in lines)
    assert any(line.startswith("dev-1") and "simulated" in line and "40.0" in line for line in lines)


@pytest.mark.parametrize("count", [1, 7, 40, 3000])
def test_what_does_not_fit_is_counted(count: int) -> None:
    lines = shown(a_look(count, requests=9), lines=24)
    assert len(lines) <= 24
    listed = sum(line.startswith("dev-") for line in lines)
    assert listed >= 1
    told = [line for line in lines if line.endswith("more")]
    assert told[0] == "and 3 requests more"
    assert (told[1:] == []) == (listed == count)
    assert not told[1:] or told[1] == f"and {count - listed:,} devices more"


def test_devices_are_sorted_as_asked() -> None:
    def first(order: Order) -> str:
        return next(line.split()[0] for line in shown(a_look(12), order=order) if line.startswith("dev-"))

    assert (first("name"), first("watts")) == ("dev-1", "dev-12")


def test_a_name_is_no_markup_and_one_of_64_characters_fits() -> None:
    name = "[red]x[/red]" + "y" * 52
    lines = shown(Look(1.0, [replace(DEVICE, name=name, detail="z" * 200)], [], []))
    assert any(line.startswith("[red]x[/red]") for line in lines)


def test_rates_are_of_what_was_given_since_the_look_before() -> None:
    before = Look(100.0, [], [], [replace(RUNNING, completion_tokens=3)])
    requests = [
        replace(RUNNING, completion_tokens=13),
        replace(RUNNING, request_id="new", accepted_at=101.0, completion_tokens=4),
        replace(RUNNING, request_id="old", accepted_at=50.0),
    ]
    assert rates(before, requests, 102.0) == {"tiny-1": 7.0}
    assert rates(None, requests, 102.0) == {}


def test_once_and_as_json(glmfleet: Command, served: Home, coordinator: FakeCoordinator) -> None:
    code, out, _ = glmfleet("top", "--once", "--home", served.path)
    assert code == 0
    assert "dev-1" in out
    assert "\x1b" not in out
    told = json.loads(glmfleet("top", "--json", "--home", served.path)[1])
    assert set(told) == {"at", "watts", "tokens_per_second", "requests", "deployments", "devices"}
    assert told["devices"][0]["name"] == "dev-1"
    assert told["requests"] == []


def test_a_coordinator_that_went_away_is_told_and_found_again(served: Home) -> None:
    with Watch(served) as watch:
        assert [one.name for one in watch.look(None).devices] == ["dev-1"]
        running = served.running_coordinator()
        assert running is not None
        assert watch._client is not None
        watch._client._http.base_url = "http://127.0.0.1:1"
        with pytest.raises(Unavailable):
            watch.look(None)
        assert watch.look(None).devices  # where the home says that it is now
    lines = shown(a_look(), problem="the coordinator at http://x does not answer; asked again each second")
    assert lines[0].startswith("the coordinator at http://x does not answer")


def test_where_none_runs_it_says_so(glmfleet: Command, tmp_path: object) -> None:
    code, _, err = glmfleet("top", "--home", tmp_path)
    assert code == 1
    assert "no coordinator is running" in err
