"""What counts as a change of the network, and how a responder follows it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import aclosing, nullcontext
from typing import Any

import pytest

from protos.net import watch
from protos.net.interfaces import Interface, Survey
from protos.net.watch import SLEPT_SECONDS, Change, change, changes, follow
from tests.support.waiting import wait_until

LO, ETH, WLAN = Interface("127.0.0.1", 8, "lo", 1), Interface("192.168.7.2", 24, "eth0", 2), Interface("fe80::3", 64, "wlan0", 3)


def seen(*usable: Interface) -> Survey:
    return Survey(usable=usable)


class Ear:
    """A responder that notes where it was told to speak."""

    def __init__(self) -> None:
        self.told: list[list[str | int]] = []

    async def async_update_interfaces(self, interfaces: list[str | int]) -> None:
        self.told.append(interfaces)


def test_a_change_and_a_sleep() -> None:
    assert watch.PERIOD_SECONDS < SLEPT_SECONDS < 5.0 - watch.PERIOD_SECONDS  # noticed within 5 s
    assert change(seen(LO), seen(LO), 0.1) is None
    assert change(seen(LO), seen(LO, ETH), 0.1) == Change(seen(LO, ETH))
    assert change(seen(LO), seen(LO), SLEPT_SECONDS + 1) == Change(seen(LO), woke=True)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ((LO,), Change(seen(LO, ETH, WLAN)), [["127.0.0.1", "192.168.7.2", 3]]),
        ((LO, ETH), Change(seen(LO)), [["127.0.0.1"]]),
        ((LO, ETH), Change(seen()), [[]]),
        # Another interface with the old one's address: zeroconf would take it for the same, and be deaf on it.
        ((LO, ETH), Change(seen(LO, Interface("192.168.7.2", 24, "eth0", 9))), [["127.0.0.1"], ["127.0.0.1", "192.168.7.2"]]),
        ((LO, ETH), Change(seen(LO, ETH), woke=True), [[], ["127.0.0.1", "192.168.7.2"]]),
        ((LO,), Change(seen(LO)), []),
    ],
)
async def test_only_what_has_changed_is_left_and_joined(before: tuple[Interface, ...], now: Change, told: list[list[str | int]]) -> None:
    ear = Ear()
    await follow(ear, before, now)
    assert ear.told == told


async def test_every_look_is_compared_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PERIOD_SECONDS", 0.0)
    looks = iter([seen(LO), seen(LO, ETH), seen(LO, ETH), seen(LO, ETH), seen()])
    times = iter([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 60.0, 60.0, 60.0, 60.0])
    async with aclosing(changes(seen(LO), lambda: next(looks), clock=lambda: next(times))) as told:
        found = [await anext(told) for _ in range(3)]
    assert found == [Change(seen(LO, ETH)), Change(seen(LO, ETH), woke=True), Change(seen())]


async def test_what_the_kernel_tells_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it said while nobody looked: the first look is without waiting."""
    told = asyncio.Event()
    monkeypatch.setattr(watch, "told_by_kernel", lambda: nullcontext(told))
    monkeypatch.setattr(watch, "PERIOD_SECONDS", 3600.0)
    monkeypatch.setattr(watch, "SETTLE_SECONDS", 0.0)
    now, looks = [seen(LO, ETH)], 0

    def look() -> Survey:
        nonlocal looks
        looks += 1
        return now[0]

    async with aclosing(changes(seen(LO), look, clock=lambda: 0.0)) as found:
        assert await anext(found) == Change(seen(LO, ETH))
        following = asyncio.ensure_future(anext(found))
        told.set()
        await wait_until(lambda: looks == 2)  # of which nothing came
        now[0] = seen()
        told.set()
        assert await following == Change(seen())


async def test_without_the_kernel_s_word_the_network_is_looked_at_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such socket, or none that may be bound."""
    monkeypatch.setattr(watch, "PERIOD_SECONDS", 0.01)
    for refuse in ("socket", "bind"):
        monkeypatch.setattr("protos.net.kernel.socket.socket", refusing(refuse))
        looks = iter([seen(LO), seen(LO), seen(LO, ETH)])
        async with aclosing(changes(seen(LO), lambda looks=looks: next(looks), clock=lambda: 0.0)) as found:  # type: ignore[misc]
            assert await anext(found) == Change(seen(LO, ETH))


def refusing(what: str) -> Callable[..., socket.socket]:
    class Refusing(socket.socket):
        def __init__(self, *arguments: Any) -> None:
            if arguments and arguments[0] == getattr(socket, "AF_NETLINK", None) and what == "socket":
                raise OSError("no")
            super().__init__(*arguments)

        def bind(self, address: Any) -> None:
            raise OSError("no")

    return Refusing


async def test_what_failed_is_tried_again_though_nothing_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PERIOD_SECONDS", 0.0)
    failed = iter([False, True])
    async with aclosing(changes(seen(LO), lambda: seen(LO), failed=lambda: next(failed), clock=lambda: 0.0)) as told:
        assert await anext(told) == Change(seen(LO))
