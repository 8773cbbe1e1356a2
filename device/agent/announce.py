"""The mDNS advert by which a coordinator on the same network finds this device."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import ifaddr
import zeroconf
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from protos.ids import SERVICE_TYPE, DeviceId, FleetId
from protos.net.multicast import multicast_problem
from protos.versions import SPOKEN

TXT_VERSION = 1

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
    """While entered, the device at `port` is advertised on `interfaces` (IPv4 addresses of this machine); goodbye is said on leaving.

    No interfaces means all that other machines can reach, or loopback when there is none. `shared` is the process's one AsyncZeroconf
    when several devices live in it (it stays open); otherwise one is made. Where multicast is not possible, one warning says so
    and the device goes on: seeds still find it.
    """

    def __init__(
        self,
        device: DeviceId,
        fleet: FleetId,
        port: int,
        interfaces: Sequence[str] = (),
        shared: AsyncZeroconf | None = None,
        *,
        gateway: bool = False,
    ) -> None:
        self._device, self._fleet, self._port, self._gateway = device, fleet, port, gateway
        self._interfaces = tuple(interfaces) or _reachable_addresses()
        self._shared = shared
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        refusals = {address: multicast_problem(address) for address in self._interfaces}
        usable = [address for address, problem in refusals.items() if problem is None]
        problems = [problem for problem in refusals.values() if problem is not None]
        async with AsyncExitStack() as stack:
            if usable:
                try:
                    await self._announce(stack, usable)
                except (OSError, zeroconf.Error) as error:
                    problems.append(f"mDNS cannot start: {error}")
            if problems:
                _log.warning("%s (give the coordinator this device's address with --seed)", "; ".join(problems))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def _announce(self, stack: AsyncExitStack, usable: Sequence[str]) -> None:
        responder = self._shared or AsyncZeroconf(interfaces=list(usable))
        if responder is not self._shared:
            stack.push_async_callback(responder.async_close)
        await responder.zeroconf.async_wait_for_start()
        info = service_info(self._device, self._fleet, self._port, usable, gateway=self._gateway)
        # No probing for a clash of names (RFC 6762 section 8.1, 1.2 s): an id is the hash of a key of our own.
        announcing = await responder.async_register_service(info, cooperating_responders=True)
        stack.push_async_callback(_say_goodbye, responder, info, asyncio.ensure_future(announcing))


async def _say_goodbye(responder: AsyncZeroconf, info: AsyncServiceInfo, announcing: asyncio.Future[None]) -> None:
    """Three packets over 250 ms."""
    announcing.cancel()  # it repeats itself for 450 ms
    await asyncio.gather(announcing, return_exceptions=True)
    await (await responder.async_unregister_service(info))


def _reachable_addresses() -> tuple[str, ...]:
    found = {ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)}
    return tuple(sorted(ip for ip in found if not ipaddress.ip_address(ip).is_loopback)) or ("127.0.0.1",)
