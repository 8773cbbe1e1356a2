"""Browsing mDNS until every device of our fleet that advertises itself has an address."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from fleet.devices.interfaces import Interface, best_address
from protos.ids import SERVICE_TYPE, DeviceId, FleetId, parse_device_id

ADVERTS = 4096  # an advert costs nothing to forge: remember no more than this, and forget the oldest first
_RESOLVERS = 16
_REQUEST_SECONDS = 1.0
_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.2, 30.0


@dataclass
class _Advert:
    name: str  # as it was sent; names compare without case
    queued: bool = False
    failures: int = 0
    retry: asyncio.TimerHandle | None = None
    device: DeviceId | None = None  # of our fleet, once resolved
    address: str = ""
    foreign: bool = False


class AdvertBrowser:
    """While entered, calls `found(device, "host:port", gateway)` for each advert of our fleet and `removed(device)` on its goodbye.

    `found` comes again when an address changes. All of it is hearsay: anybody on the network can send adverts.

    UDP loses packets (of 1,000 adverts at once about a third), so each name is asked for again, at growing distances, until it is resolved.
    `shared` is an AsyncZeroconf to use; otherwise one is made on `interfaces`. Raises OSError on entering when multicast is not possible.
    """

    def __init__(
        self,
        fleet: FleetId,
        interfaces: Sequence[Interface],
        found: Callable[[DeviceId, str, bool], None],
        removed: Callable[[DeviceId], None],
        *,
        shared: AsyncZeroconf | None = None,
        limit: int = ADVERTS,
    ) -> None:
        self._fleet = fleet
        self._interfaces = tuple(interfaces)
        self._found = found
        self._removed = removed
        self._shared = shared
        self._limit = limit
        self._adverts: OrderedDict[str, _Advert] = OrderedDict()
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._stack = AsyncExitStack()
        self.forgotten = 0  # adverts dropped because there were too many

    @property
    def other_fleets(self) -> int:
        """Adverts seen that name another fleet."""
        return sum(advert.foreign for advert in self._adverts.values())

    @property
    def unresolved(self) -> int:
        """Adverts seen whose address did not come yet."""
        return sum(not advert.foreign and advert.device is None for advert in self._adverts.values())

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            responder = self._shared
            if responder is None:
                responder = await stack.enter_async_context(AsyncZeroconf(interfaces=[one.address for one in self._interfaces]))
            await responder.zeroconf.async_wait_for_start()
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            workers = [tasks.create_task(self._resolve(responder.zeroconf), name=f"mdns resolver {n}") for n in range(_RESOLVERS)]
            for worker in workers:
                stack.callback(worker.cancel)
            stack.callback(self._forget_all)
            await stack.enter_async_context(AsyncServiceBrowser(responder.zeroconf, SERVICE_TYPE, handlers=[self._heard]))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def _heard(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        key = name.lower()
        if state_change is ServiceStateChange.Removed:
            self._forget(key)
            return
        advert = self._adverts.get(key)
        if advert is None:
            if state_change is not ServiceStateChange.Added:
                return  # records that still change after the goodbye are no device
            advert = self._adverts[key] = _Advert(name)
            while len(self._adverts) > self._limit:
                self._forget(next(iter(self._adverts)))
                self.forgotten += 1
        # Announcements carry all records, so most names need no question.
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        if info.load_from_cache(zeroconf):
            self._learn(advert, info)
        else:
            self._ask(advert)

    def _ask(self, advert: _Advert) -> None:
        if not advert.queued:
            advert.queued = True
            self._queue.put_nowait(advert.name.lower())

    async def _resolve(self, zeroconf: Zeroconf) -> None:
        while True:
            advert = self._adverts.get(await self._queue.get())
            if advert is None:
                continue
            advert.queued = False
            info = AsyncServiceInfo(SERVICE_TYPE, advert.name)
            answered = await info.async_request(zeroconf, _REQUEST_SECONDS * 1000)
            if self._adverts.get(advert.name.lower()) is not advert:
                continue  # it left while we asked
            if answered:
                self._learn(advert, info)
            else:
                delay_seconds = min(_FIRST_DELAY_SECONDS * 2**advert.failures, _LAST_DELAY_SECONDS)
                advert.failures = min(advert.failures + 1, 20)
                self._cancel_retry(advert)
                advert.retry = asyncio.get_running_loop().call_later(delay_seconds, self._ask, advert)

    def _learn(self, advert: _Advert, info: AsyncServiceInfo) -> None:
        advert.failures = 0
        self._cancel_retry(advert)
        text = info.decoded_properties
        try:
            device = parse_device_id(advert.name.lower().removesuffix(f".{SERVICE_TYPE}"))
        except ValueError:
            advert.foreign = True
            return
        advert.foreign = text.get("fleet") != self._fleet or text.get("id") != device
        host = best_address(info.parsed_addresses(IPVersion.V4Only), self._interfaces)
        if advert.foreign or host is None or not info.port:
            return
        address = f"{host}:{info.port}"
        if address != advert.address:
            advert.device, advert.address = device, address
            self._found(device, address, text.get("role") == "gateway")

    def _forget(self, key: str) -> None:
        advert = self._adverts.pop(key, None)
        if advert is not None:
            self._cancel_retry(advert)
            if advert.device is not None:
                self._removed(advert.device)

    def _forget_all(self) -> None:
        for advert in self._adverts.values():
            self._cancel_retry(advert)

    @staticmethod
    def _cancel_retry(advert: _Advert) -> None:
        if advert.retry is not None:
            advert.retry.cancel()
            advert.retry = None
