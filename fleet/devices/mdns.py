"""Browsing mDNS until every device of our fleet that advertises itself has an address."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from zeroconf import DNSOutgoing, DNSQuestion, IPVersion, ServiceStateChange, Zeroconf  # type: ignore[attr-defined]
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from fleet.background import Background
from fleet.devices.ranking import ranked
from protos.enrolment import ENROLLABLE
from protos.ids import SERVICE_TYPE, DeviceId, FleetId, parse_device_id
from protos.net import watch
from protos.net.ear import probe_name
from protos.net.interfaces import Survey
from protos.net.watch import Change

ADVERTS = 4096  # an advert costs nothing to forge: remember no more than this, and forget the oldest first
_MOST_CACHED, _CACHE_SECONDS = 4, 5.0  # names for each advert: itself, its host, and again in the list of all
_RESOLVERS = 16
_REQUEST_SECONDS = 1.0
_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.2, 30.0
_QUERY, _IN, _A, _PTR, _TXT, _AAAA, _SRV = 0, 1, 1, 12, 16, 28, 33  # RFC 1035, 3596, 2782


@dataclass
class _Advert:
    name: str  # as it was sent; names compare without case
    queued: bool = False
    failures: int = 0
    retry: asyncio.TimerHandle | None = None
    device: DeviceId | None = None  # of our fleet, once resolved
    addresses: tuple[str, ...] = ()
    foreign: bool = False
    enrollable: bool = False  # of no fleet, and asking for one


class AdvertBrowser:
    """While entered, calls `found(device, addresses, gateway)` for each advert of our fleet and `removed(device)` on its goodbye;
    `enrollable(device, addresses)` for each board that asks for a fleet.

    `addresses` are "host:port", all that the advert has, the likeliest first. `found` comes again when they change. All of it is hearsay:
    anybody on the network can send adverts.

    UDP loses packets (of 1,000 adverts at once about a third), so each name is asked for again, at growing distances, until it is resolved.
    Raises OSError on entering when multicast is not possible.
    """

    def __init__(
        self,
        fleet: FleetId,
        where: Survey,
        found: Callable[[DeviceId, tuple[str, ...], bool], None],
        removed: Callable[[DeviceId], None],
        *,
        enrollable: Callable[[DeviceId, tuple[str, ...]], None] = lambda _board, _addresses: None,
        known: Callable[[DeviceId], bool] = lambda _device: False,
        dropped: Callable[[DeviceId], None] | None = None,
        limit: int = ADVERTS,
    ) -> None:
        """Of more than `limit` adverts the oldest are forgotten, those of the `known` last; `dropped` is told (None: as `removed`)."""
        self._fleet = fleet
        self._where = where
        self._found = found
        self._removed = removed
        self._enrollable = enrollable
        self._known = known
        self._dropped = dropped or removed
        self._limit = limit
        self._adverts: OrderedDict[str, _Advert] = OrderedDict()
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._stack = AsyncExitStack()
        self._responder: AsyncZeroconf | None = None
        self._asking: AsyncServiceBrowser | None = None
        self.forgotten = 0  # adverts dropped because there were too many

    @property
    def advertised(self) -> frozenset[DeviceId]:
        """The devices of our fleet whose adverts were heard, and have not run out."""
        return frozenset(advert.device for advert in self._adverts.values() if advert.device is not None)

    @property
    def other_fleets(self) -> int:
        """Adverts seen that name another fleet."""
        return sum(advert.foreign for advert in self._adverts.values())

    @property
    def unresolved(self) -> int:
        """Adverts seen whose address did not come yet."""
        return sum(not (advert.foreign or advert.enrollable) and advert.device is None for advert in self._adverts.values())

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            interfaces = watch.as_zeroconf_wants(self._where.usable)
            responder = await stack.enter_async_context(AsyncZeroconf(interfaces=interfaces))
            await responder.zeroconf.async_wait_for_start()
            background = await stack.enter_async_context(Background())
            for n in range(_RESOLVERS):
                background.start(self._resolve(responder.zeroconf), f"mdns resolver {n}")
            stack.callback(self._forget_all)
            stack.push_async_callback(self._stop_asking)
            self._responder = responder
            self._ask_everybody()
            background.start(self._bound_the_cache(), "bound what mDNS keeps")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def follow(self, change: Change) -> None:
        """Browse where the network is now, and ask who is there."""
        assert self._responder is not None
        before, self._where = self._where, change.survey
        await watch.follow(self._responder, before.usable, change)
        await self._stop_asking()
        self._ask_everybody()

    def ask_again(self, devices: Iterable[DeviceId]) -> None:
        """Where are these? What is remembered of their adverts may be old, or forged: whoever has the name answers."""
        assert self._responder is not None
        for device in devices:
            advert = self._adverts.get(f"{device}.{SERVICE_TYPE}".lower())
            if advert is None:
                continue
            question = DNSOutgoing(_QUERY)
            for name, kinds in ((advert.name, (_SRV, _TXT)), (f"{device}.local.", (_A, _AAAA))):
                for kind in kinds:
                    question.add_question(DNSQuestion(name, kind, _IN))
            self._responder.zeroconf.async_send(question)

    def send_probe(self, number: str) -> None:
        """Ask every device who it is, with a question beside it by which they can tell that they heard it."""
        assert self._responder is not None
        question = DNSOutgoing(_QUERY)
        question.add_question(DNSQuestion(probe_name(number), _TXT, _IN))
        question.add_question(DNSQuestion(SERVICE_TYPE, _PTR, _IN))
        self._responder.zeroconf.async_send(question)

    def _ask_everybody(self) -> None:
        """Asks at once, then at growing distances."""
        assert self._responder is not None
        self._asking = AsyncServiceBrowser(self._responder.zeroconf, SERVICE_TYPE, handlers=[self._heard])

    async def _stop_asking(self) -> None:
        if self._asking is not None:
            await self._asking.async_cancel()
            self._asking = None

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
                self._drop_one()
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
        advert.enrollable = text.get("fleet") == ENROLLABLE and text.get("id") == device
        advert.foreign = not advert.enrollable and (text.get("fleet") != self._fleet or text.get("id") != device)
        if advert.foreign or not info.port:
            return
        addresses = ranked(info.parsed_addresses(IPVersion.All), info.port, self._where.own)
        if advert.enrollable:
            self._enrollable(device, addresses)
        elif addresses and addresses != advert.addresses:
            advert.device, advert.addresses = device, addresses
            self._found(device, addresses, text.get("role") == "gateway")

    def _forget(self, key: str) -> None:
        advert = self._adverts.pop(key, None)
        if advert is not None:
            self._cancel_retry(advert)
            if advert.device is not None:
                self._removed(advert.device)

    def _drop_one(self) -> None:
        oldest = (key for key, advert in self._adverts.items() if advert.device is None or not self._known(advert.device))
        advert = self._adverts.pop(next(oldest, next(iter(self._adverts))))
        self._cancel_retry(advert)
        self.forgotten += 1
        if advert.device is not None:
            self._dropped(advert.device)

    async def _bound_the_cache(self) -> None:
        """zeroconf keeps whatever it hears until its time is up, which is whatever its sender says: what is too much is all forgotten, and
        who is there is asked."""
        assert self._responder is not None
        cache = self._responder.zeroconf.cache
        while True:
            await asyncio.sleep(_CACHE_SECONDS)
            if len(cache.cache) + len(cache.cache.get(SERVICE_TYPE, ())) <= _MOST_CACHED * self._limit:
                continue
            await self._stop_asking()
            cache.async_remove_records([record for store in list(cache.cache.values()) for record in list(store)])
            self._ask_everybody()

    def _forget_all(self) -> None:
        for advert in self._adverts.values():
            self._cancel_retry(advert)

    @staticmethod
    def _cancel_retry(advert: _Advert) -> None:
        if advert.retry is not None:
            advert.retry.cancel()
            advert.retry = None
