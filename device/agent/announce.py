"""The mDNS advert by which a coordinator on the same network finds this device."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import zeroconf
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from device.agent.hearing import Hearing
from protos.ids import SERVICE_TYPE, DeviceId, FleetId
from protos.net import watch
from protos.net.ear import Ear
from protos.net.interfaces import Interface, Survey, why_alone
from protos.net.watch import Change
from protos.versions import SPOKEN

TXT_VERSION = 1
MOST_ADDRESSES = 16  # of one device: with the rest of the advert they fit a packet

_log = logging.getLogger(__name__)


def service_info(device: DeviceId, fleet: FleetId, port: int, addresses: Sequence[str], *, gateway: bool = False) -> AsyncServiceInfo:
    """The advert: its TXT record (RFC 6763 section 6; under 200 bytes) only hints, TLS decides who answers.

    A gateway says that it is one (role), and nothing of what is behind it.
    """
    properties = {"txtvers": str(TXT_VERSION), "fleet": fleet, "id": device, "p": str(SPOKEN.newest)}
    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{device}.{SERVICE_TYPE}",
        port=port,
        parsed_addresses=list(addresses),
        properties=properties | ({"role": "gateway"} if gateway else {}),
        server=f"{device}.local.",
    )


class Announcement:
    """While entered, the device at `port` is advertised on `interfaces`, and goodbye is said on leaving.

    `interfaces` are names or addresses of network interfaces of this machine; none means all that other machines can reach, or loopback
    while there is none. They are looked at again and again: an address that comes, goes or changes is told, and all is told again when
    the machine has slept. Where multicast is not possible, one warning says so and the device goes on: seeds still find it.
    """

    def __init__(
        self,
        device: DeviceId,
        fleet: FleetId,
        port: int,
        interfaces: Sequence[str] = (),
        *,
        gateway: bool = False,
        look: Callable[[Sequence[str] | None], Survey] = watch.look,
        hearing: Hearing | None = None,
    ) -> None:
        """`hearing` takes note of who asks for devices there."""
        self._device, self._fleet, self._port, self._gateway = device, fleet, port, gateway
        self._interfaces = tuple(interfaces) or None
        self._look = look
        self._responder: AsyncZeroconf | None = None
        self._where: tuple[Interface, ...] = ()  # the responder speaks
        self._info: AsyncServiceInfo | None = None  # that was told last
        self._telling: asyncio.Future[Any] | None = None  # it repeats itself for 450 ms
        self._warned = self._waits = ""
        self._failed = False  # mDNS could not start
        self._watching: asyncio.Task[None] | None = None
        self._hearing = hearing
        self._ear = Ear(hearing.note) if hearing is not None else None

    async def __aenter__(self) -> Self:
        first = await asyncio.to_thread(self._reachable)
        await self._follow(Change(first))
        self._watching = asyncio.create_task(self._watch(first), name="watch the network")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._quiet()
        if self._ear is not None:
            self._ear.close()
        if self._responder is not None:
            if self._info is not None:  # three packets over 250 ms
                await (await self._responder.async_unregister_service(self._info))
            await self._responder.async_close()

    def _reachable(self) -> Survey:
        found = self._look(self._interfaces)
        if self._interfaces is not None or found.alone:
            return found
        usable, asked = (tuple(one for one in each if not one.ip.is_loopback) for each in (found.usable, found.asked))
        return replace(found, usable=usable, asked=asked)

    async def _watch(self, first: Survey) -> None:
        try:
            async with aclosing(watch.changes(first, self._reachable, failed=lambda: self._failed)) as changes:
                async for change in changes:
                    await self._follow(change)
        except Exception:
            _log.exception("a defect: the network is no longer watched")

    async def _follow(self, change: Change) -> None:
        problems = list(change.survey.problems)
        try:
            await self._announce(change)
            self._failed = False
        except (OSError, RuntimeError, zeroconf.Error) as error:  # a RuntimeError: an interface has gone meanwhile
            self._failed = True
            problems.append(f"mDNS cannot start: {error}")
        warning = "; ".join(problems)
        if problems and warning != self._warned:
            _log.warning("%s (give the coordinator this device's address with --seed)", warning)
        self._warned = warning
        waits = why_alone(change.survey.mute, bool(change.survey.usable)) if change.survey.waits(self._interfaces) else ""
        if waits and waits != self._waits:
            _log.warning("no other machine can find this device, which waits for a network: %s", waits)
        elif self._waits and not waits:
            _log.info("there is a network again: mDNS on %s", ", ".join(map(str, change.survey.usable)))
        self._waits = waits

    async def _announce(self, change: Change) -> None:
        usable = change.survey.usable
        if not usable and self._responder is None:
            return
        await self._quiet()
        if self._responder is None:
            self._responder = AsyncZeroconf(interfaces=watch.as_zeroconf_wants(usable))
            await self._responder.zeroconf.async_wait_for_start()
        else:
            await watch.follow(self._responder, self._where, change)
        self._where = usable
        if self._ear is not None and self._hearing is not None:
            self._ear.follow(usable)
            self._hearing.listens = self._ear.listens
        addresses = [one.address for one in change.survey.asked][:MOST_ADDRESSES]
        info = service_info(self._device, self._fleet, self._port, addresses, gateway=self._gateway)
        # No probing for a clash of names (RFC 6762 section 8.1, 1.2 s): an id is the hash of a key of our own.
        if self._info is None:
            telling = await self._responder.async_register_service(info, cooperating_responders=True)
        else:
            telling = await self._responder.async_update_service(info)
        self._info, self._telling = info, asyncio.ensure_future(telling)

    async def _quiet(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
