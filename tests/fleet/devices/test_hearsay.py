"""Strangers' words: looked at within a budget, in turns that no flood can keep for itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.devices import discovery as module
from fleet.devices.discovery import Candidate, Discovery
from fleet.devices.hearsay import DEFAULT_BUDGET, MOST_FAR, MOST_OF_A_HOST, MOST_PLACES, Budget, Hearsay
from protos.errors import Unavailable
from protos.ids import DeviceId
from tests.support.fake_device import FakeDevice
from tests.support.members import TestFleet
from tests.support.multicast import LOOPBACK, needs_multicast
from tests.support.waiting import wait_until

REAL = "real"
BUDGET = replace(DEFAULT_BUDGET, per_second=200.0, burst=20.0, first_wait_seconds=0.05, longest_wait_seconds=0.4)


class Wire:
    """Who answers where; what is asked is written down."""

    def __init__(self, **there: str) -> None:
        self.there = {address.replace("_", ":"): who for who, address in there.items()}
        self.looks: list[str] = []

    async def look(self, address: str, claims: tuple[str, ...], _seconds: float) -> Collection[str]:
        self.looks.append(address)
        await asyncio.sleep(0)
        if address not in self.there:
            raise Unavailable(f"nobody listens at {address}")
        return [claim for claim in claims if claim == self.there[address]]


@asynccontextmanager
async def hearsay(wire: Wire, budget: Budget = BUDGET):
    async with Hearsay(wire.look, budget, dice=random.Random(7), near=lambda host: not host.startswith("far")) as made:
        yield made


async def test_who_answers_is_forgotten_wherever_it_was_said_to_be() -> None:
    wire = Wire(real="a_1")
    async with hearsay(wire) as heard:
        heard.heard(REAL, ["b:1", "a:1", "c:1"])
        await wait_until(lambda: REAL not in heard)
        assert len(heard) == 0
        assert heard._places == {True: 0, False: 0}
        assert heard._hosts == {}


async def test_who_does_not_answer_is_told_with_the_reason_and_looked_at_again() -> None:
    wire = Wire()
    async with hearsay(wire) as heard:
        heard.heard(REAL, ["a:1"])
        await wait_until(lambda: len(wire.looks) == 2)
        [one] = heard.unproven()
        assert (one.claim, one.address, one.problem) == (REAL, "a:1", "nobody listens at a:1")
        wire.there["a:1"] = REAL
        await wait_until(lambda: REAL not in heard)


async def test_somebody_else_is_no_proof() -> None:
    wire = Wire(other="a_1")
    async with hearsay(wire) as heard:
        heard.heard(REAL, ["a:1"])
        await wait_until(lambda: [one.problem for one in heard.unproven()] == ["somebody else answers there"])
        heard.forget(REAL)
        assert list(heard.unproven()) == []


async def test_looks_that_find_nobody_keep_to_the_budget_and_those_that_do_cost_nothing() -> None:
    wire = Wire()
    slow = replace(BUDGET, per_second=10.0, burst=5.0)
    async with hearsay(wire, slow) as heard:
        for n in range(1000):
            heard.heard(f"lie {n}", [f"host{n}:1"])
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)
        assert 5 <= len(wire.looks) <= 5 + 10 * (asyncio.get_running_loop().time() - began) + 3
    wire = Wire(**{f"real{n}": f"host{n}_1" for n in range(1000)})
    async with hearsay(wire, slow) as heard:
        for n in range(1000):
            heard.heard(f"real{n}", [f"host{n}:1"])
        await wait_until(lambda: len(heard) == 0, 20)


@pytest.mark.parametrize(("host", "hosts"), [("host", 1), ("host", 50), ("far", 5000)])
async def test_one_that_is_real_has_its_turn_in_any_flood(host: str, hosts: int) -> None:
    """Before and after it, and while it waits, thousands are said to be at one host, at some, each at its own; it fails once."""
    wire = Wire()
    async with hearsay(wire) as heard:

        async def flood() -> None:
            for n in range(100_000):
                heard.heard(f"lie {n}", [f"{host}{n % hosts}:{n % 60_000}"])
                if n % 100 == 0:
                    await asyncio.sleep(0.01)

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(0.1)
        heard.heard(REAL, ["real:1"])
        await wait_until(lambda: "real:1" in wire.looks, 30)
        wire.there["real:1"] = REAL
        heard.heard(REAL, ["real:1"])
        await wait_until(lambda: REAL not in heard, 30)
        assert heard._places[True] <= MOST_PLACES
        assert heard._places[False] <= MOST_FAR
        assert all(len(one.places) <= MOST_OF_A_HOST for one in heard._hosts.values())
        assert sum(len(one.places) for one in heard._hosts.values()) == sum(heard._places.values())
        flooding.cancel()


async def test_forged_adverts_of_one_address_are_few_claims_there() -> None:
    wire = Wire()
    async with hearsay(wire, replace(BUDGET, burst=1.0, per_second=0.001)) as heard:
        for n in range(1000):
            heard.heard(f"lie {n}", ["host:1"])
        assert len(heard) <= 8


@needs_multicast
async def test_discovery_finds_a_new_device_among_thousands_that_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the false ones is told but their number."""
    monkeypatch.setattr(module, "SHOWN", 2)
    fleet = TestFleet.open(tmp_path)
    found: list[Candidate] = []
    async with AsyncExitStack() as stack:
        device = await stack.enter_async_context(FakeDevice(fleet.member("dev-1"), "dev-1"))
        me = fleet.member("me", "coordinator").credentials
        discovery = Discovery(fleet.fleet_id, me, found.append, interfaces=[LOOPBACK], known=lambda _device: False)
        await stack.enter_async_context(discovery)
        for n in range(20_000):
            discovery._advertised(DeviceId(f"{n:016}"), (f"127.0.{n % 200}.9:{1 + n // 200}",), n % 3 == 0)
        discovery._advertised(device.device, (f"127.0.0.9:{device.port}", device.address), gateway=True)
        await wait_until(lambda: found, 30)
        assert [(one.device_id, one.addresses[0], one.gateway) for one in found] == [(device.device, device.address, False)]
        assert discovery._hearsay.looks < 2000
        told = discovery.report().problems
        assert len(told) == 2
        assert "of this fleet and did not prove it" in told[0]
        assert "127.0." in told[1]


async def test_few_that_do_not_prove_it_are_named_with_the_reason(tmp_path: Path) -> None:
    fleet, others = TestFleet.open(tmp_path), TestFleet.open(tmp_path / "others")
    async with FakeDevice(others.member("dev-1"), "dev-1") as device:
        me = fleet.member("me", "coordinator").credentials
        async with Discovery(fleet.fleet_id, me, lambda _found: None, interfaces=(), known=lambda _device: False) as discovery:
            discovery._advertised(device.device, (device.address,), gateway=False)
            await wait_until(lambda: any("prove it:" in one for one in discovery.report().problems))
            [problem] = discovery.report().problems
            assert problem.startswith(f"mDNS: {device.device} says that it is of this fleet, and does not prove it: {device.address}")
