"""Finding devices: mDNS adverts and seed addresses, both only hints of where to dial; TLS decides who answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from zeroconf.asyncio import AsyncZeroconf

from fleet.devices.interfaces import Interface, ipv4_interfaces
from fleet.devices.mdns import AdvertBrowser
from fleet.devices.probe import ProbedMember, probe
from fleet.devices.views import DiscoveryReport
from protos.errors import Denied, FleetError, InvalidInput
from protos.ids import DeviceId, FleetId, parse_device_id
from protos.net.multicast import multicast_problem
from protos.net.transport import Credentials, split_address

_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.5, 10.0  # a seed that does not answer
_AGAIN_SECONDS = 60.0  # a seed that did: another device may have taken its address

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """Somebody at `address` ("host:port") is said to be `device_id`: dial it to know."""

    device_id: DeviceId
    address: str
    found_by: Literal["mdns", "seed"]
    gateway: bool = False  # it is said to answer for others


@dataclass(frozen=True)
class Seed:
    address: str
    device_id: DeviceId | None = None  # None: to be learnt by TLS

    def __str__(self) -> str:
        return f"{self.device_id}@{self.address}" if self.device_id else self.address


def parse_seed(text: str) -> Seed:
    """Of "host:port" or "id@host:port". Raises InvalidInput."""
    device, at, address = text.strip().rpartition("@")
    split_address(address)
    try:
        return Seed(address, parse_device_id(device) if at else None)
    except ValueError as error:
        raise InvalidInput(f"not a seed: {text!r}", advice="write host:port, or id@host:port with a device's id") from error


class Discovery:
    """While entered, calls `found(candidate)` for each device of the fleet it hears of, and `removed(device_id)` when one says goodbye.

    `found` is called again when a device's address changes or a seed comes back; `removed` is a hint to look, no proof.
    Both are called in the event loop and must not block.

    `seeds` are "host:port" (its id is learnt by a TLS handshake) or, the only form without credentials, "id@host:port".
    `interfaces` are IPv4 addresses to browse: None for loopback and all there are, () for no mDNS. `shared` is the process's AsyncZeroconf.
    Raises InvalidInput for a malformed seed.
    """

    def __init__(
        self,
        fleet: FleetId,
        credentials: Credentials | None,
        found: Callable[[Candidate], None],
        removed: Callable[[DeviceId], None] = lambda _device: None,
        *,
        seeds: Sequence[str] = (),
        interfaces: Sequence[str] | None = None,
        shared: AsyncZeroconf | None = None,
    ) -> None:
        self._fleet = fleet
        self._credentials = credentials
        self._found = found
        self._removed = removed
        self._seeds = tuple(parse_seed(text) for text in seeds)
        self._asked = interfaces
        self._shared = shared
        self._browser: AdvertBrowser | None = None
        self._interfaces: tuple[Interface, ...] = ()
        self._mdns_problems: list[str] = []
        self._seed_problems: dict[Seed, str] = {}
        self._stack = AsyncExitStack()
        for seed in self._seeds:
            if credentials is None and seed.device_id is None:
                raise InvalidInput(f"without TLS nobody proves who answers at {seed}", advice="write the seed as id@host:port")

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._browse(stack)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for seed in self._seeds:
                task = tasks.create_task(self._follow(seed), name=f"seed {seed}")
                stack.callback(task.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def report(self) -> DiscoveryReport:
        """What was tried and what stood in the way, so that an empty fleet explains itself."""
        problems = [*self._mdns_problems, *self._seed_problems.values()]
        browser = self._browser
        if browser is not None and browser.forgotten:
            problems.append(f"mDNS: more adverts than can be remembered, {browser.forgotten} were dropped: is somebody forging them?")
        if browser is not None and browser.unresolved:
            problems.append(f"mDNS: {browser.unresolved} adverts have no address yet")
        return DiscoveryReport(
            fleet_id=self._fleet,
            interfaces=tuple(one.address for one in self._interfaces),
            seeds=tuple(str(seed) for seed in self._seeds),
            other_fleets=browser.other_fleets if browser is not None else 0,
            problems=tuple(problems),
        )

    async def _browse(self, stack: AsyncExitStack) -> None:
        existing = ipv4_interfaces()
        by_address = {one.address: one for one in existing}
        wanted = existing if self._asked is None else tuple(by_address.get(text, Interface(text)) for text in self._asked)
        usable = []
        for one in wanted:
            problem = multicast_problem(one.address)
            if problem is None:
                usable.append(one)
            else:
                self._mdns_problems.append(problem)
        if usable:
            browser = AdvertBrowser(self._fleet, usable, self._advertised, self._removed, shared=self._shared)
            try:
                self._browser = await stack.enter_async_context(browser)
            except OSError as error:
                self._mdns_problems.append(f"mDNS cannot start: {error.strerror or error}")
            else:
                self._interfaces = tuple(usable)
        for problem in self._mdns_problems:
            _log.warning("%s", problem)

    def _advertised(self, device: DeviceId, address: str, gateway: bool) -> None:
        self._found(Candidate(device, address, "mdns", gateway))

    async def _follow(self, seed: Seed) -> None:
        known: DeviceId | None = None
        delay_seconds = _FIRST_DELAY_SECONDS
        while True:
            try:
                device, gateway = await self._identify(seed)
            except FleetError as error:
                self._seed_problems[seed] = f"seed {error.detail}" + (f" ({error.advice})" if error.advice else "")
                known = None
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(2 * delay_seconds, _LAST_DELAY_SECONDS)
                continue
            self._seed_problems.pop(seed, None)
            delay_seconds = _FIRST_DELAY_SECONDS
            if device != known:
                known = device
                self._found(Candidate(device, seed.address, "seed", gateway))
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _identify(self, seed: Seed) -> ProbedMember:
        if self._credentials is None:
            assert seed.device_id is not None  # checked when we were made
            return ProbedMember(seed.device_id, gateway=False)
        device, gateway = await probe(seed.address, self._credentials)
        if seed.device_id not in (None, device):
            raise Denied(f"{seed.address} is device {device}, not {seed.device_id}")
        return ProbedMember(device, gateway)
