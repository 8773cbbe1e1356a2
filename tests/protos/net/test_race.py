"""Trying all addresses of somebody."""

from __future__ import annotations

import asyncio

import pytest

from protos.errors import Denied, FleetError, InvalidInput, Unavailable
from protos.net import race as module
from protos.net.race import Unreached, race
from tests.support.waiting import wait_until


class Reached:
    def __init__(self, address: str) -> None:
        self.address = address
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Hosts:
    """Each address does as the test says: an error, or the event at which it answers (None: at once)."""

    def __init__(self, **does: FleetError | asyncio.Event | None) -> None:
        self.does = does
        self.tried: list[str] = []
        self.given_up: list[str] = []
        self.reached: list[Reached] = []

    async def reach(self, address: str) -> Reached:
        self.tried.append(address)
        does = self.does[address]
        try:
            if isinstance(does, asyncio.Event):
                await does.wait()
        except asyncio.CancelledError:
            self.given_up.append(address)
            raise
        if isinstance(does, FleetError):
            raise does
        self.reached.append(Reached(address))
        return self.reached[-1]


async def test_one_that_fails_is_followed_by_the_next_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STAGGER_SECONDS", 60.0)
    hosts = Hosts(a=Denied("another device"), b=None, c=None)
    address, reached = await race(["a", "b", "c"], hosts.reach)
    assert (address, reached.address, hosts.tried) == ("b", "b", ["a", "b"])


async def test_one_that_is_silent_is_passed_and_given_up_when_another_answers() -> None:
    hosts = Hosts(a=asyncio.Event(), b=None)
    address, reached = await race(["a", "b"], hosts.reach)
    assert (address, hosts.given_up, reached.closed) == ("b", ["a"], False)


async def test_who_comes_second_is_closed() -> None:
    both = asyncio.Event()
    hosts = Hosts(a=both, b=both)
    running = asyncio.create_task(race(["a", "b"], hosts.reach))
    await wait_until(lambda: len(hosts.tried) == 2)
    both.set()
    address, reached = await running
    assert (address, reached.closed) == ("a", False)
    # Both were there in the same turn of the loop, before one of them could be given up.
    assert [(one.address, one.closed) for one in hosts.reached] == [("a", False), ("b", True)]


async def test_who_is_there_though_it_was_given_up_is_closed() -> None:
    """A handshake that ends while it is cancelled."""
    late, first = Reached("a"), asyncio.Event()

    async def reach(address: str) -> Reached:
        if address == "b":
            await first.wait()
            return Reached("b")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return late
        raise AssertionError("nobody sets it")

    running = asyncio.create_task(race(["a", "b"], reach))
    first.set()
    address, reached = await running
    assert (address, reached.closed, late.closed) == ("b", False, True)


async def test_a_cancelled_race_leaves_nothing_open() -> None:
    hosts = Hosts(a=asyncio.Event(), b=asyncio.Event())
    running = asyncio.create_task(race(["a", "b"], hosts.reach))
    await wait_until(lambda: len(hosts.tried) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(hosts.given_up) == ["a", "b"]


async def test_when_nobody_answers_all_reasons_are_told() -> None:
    hosts = Hosts(a=Denied("another device answers"), b=Unavailable("nobody listens", advice="look"), c=InvalidInput("no address"))
    with pytest.raises(Unreached) as caught:
        await race(["a", "b", "c"], hosts.reach)
    assert list(caught.value.errors) == ["a", "b", "c"]
    error = caught.value.as_one(lambda error, address: type(error)(f"{address}: {error.cause}", advice=error.advice))
    # It may be away, whoever answers at one of its addresses.
    assert isinstance(error, Unavailable)
    assert (error.cause, error.advice) == ("a: another device answers; b: nobody listens; c: no address", "look")


async def test_a_single_address_says_why_as_it_is() -> None:
    hosts = Hosts(a=Denied("another device answers"))
    with pytest.raises(Unreached) as caught:
        await race(["a"], hosts.reach)
    assert isinstance(caught.value.as_one(lambda error, _address: error), Denied)


async def test_nobody_who_is_nowhere() -> None:
    with pytest.raises(Unreached, match="no address"):
        await race([], Hosts().reach)


async def test_of_many_reasons_a_few_are_told() -> None:
    with pytest.raises(Unreached) as caught:
        await race([f"a{n}" for n in range(10)], Hosts(**{f"a{n}": Unavailable(f"no {n}") for n in range(10)}).reach)
    assert caught.value.as_one(lambda error, _address: error).cause == "no 0; no 1; no 2; no 3; and 6 more addresses"
