"""Finding devices: mDNS adverts and seed addresses, both only hints of where to dial; TLS decides who answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Literal, Self, TypeAlias

from fleet.background import Background, set_within, together
from fleet.devices.hearsay import Hearsay
from fleet.devices.mdns import AdvertBrowser
from fleet.devices.probe import ProbedMember, probe
from fleet.devices.ranking import is_near
from fleet.devices.remembered import Proven
from fleet.devices.views import DiscoveryReport
from protos.errors import Denied, FleetError, InvalidInput
from protos.ids import DeviceId, FleetId, parse_device_id
from protos.net import watch
from protos.net.addresses import dialable
from protos.net.interfaces import Interface, Survey, why_alone
from protos.net.transport import Credentials, split_address
from protos.net.watch import Change

_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.5, 10.0  # a seed that does not answer
_ASK_AGAIN_SECONDS, _LAST_ASK_AGAIN_SECONDS = 10.0, 120.0  # for devices that could not be reached
ASKED_AGAIN = 64  # of them at once
_RECALLS, _RECALLED_AT_ONCE = 11, 32  # the last some 8 minutes after the first
SHOWN = 8  # adverts that nobody proved, in a report
_AGAIN_SECONDS = 60.0  # a seed that did: another device may have taken its address

_log = logging.getLogger(__name__)


FoundBy: TypeAlias = Literal["mdns", "seed", "memory", "join", "relay"]


@dataclass(frozen=True)
class Candidate:
    """Somebody at one of `addresses` ("host:port", the likeliest first) is said to be `device_id`: dial to know."""

    device_id: DeviceId
    addresses: tuple[str, ...]
    found_by: FoundBy
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

    `found` is called again when a device's addresses change or a seed comes back; `removed` is a hint to look, no proof. `moved` is called
    when this machine's own network has changed, or the machine has slept: it is browsed anew then. All are called in the event loop and
    must not block. `stranger(board, addresses, found_by)` is called for boards that ask for a fleet, with None for a seed that is nobody
    of ours. `unreached` says whom of those found nobody could reach: they are asked for again. Of the others than the `known` an advert
    is believed when its device has shown its certificate, so that forged ones are counted in the report and are nowhere else.

    `remembered` are looked for where they were, for some minutes; of those that are not there any more nothing is said.
    `seeds` are "host:port" (its id is learnt by a TLS handshake) or, the only form without credentials, "id@host:port".
    `interfaces` are names or addresses of network interfaces to browse: None for loopback and all there are, () for no mDNS.
    `look(interfaces)` surveys them. Raises InvalidInput for a malformed seed.
    """

    def __init__(
        self,
        fleet: FleetId,
        credentials: Credentials | None,
        found: Callable[[Candidate], None],
        removed: Callable[[DeviceId], None] = lambda _device: None,
        *,
        seeds: Sequence[str] = (),
        remembered: Sequence[Proven] = (),
        interfaces: Sequence[str] | None = None,
        moved: Callable[[], None] = lambda: None,
        unreached: Callable[[], Sequence[DeviceId]] = lambda: (),
        stranger: Callable[[DeviceId | None, tuple[str, ...], FoundBy], None] = lambda _board, _addresses, _found_by: None,
        known: Callable[[DeviceId], bool] = lambda _device: True,
        look: Callable[[Sequence[str] | None], Survey] = watch.look,
    ) -> None:
        self._fleet = fleet
        self._credentials = credentials
        self._found = found
        self._removed = removed
        self._moved = moved
        self._unreached = unreached
        self._stranger = stranger
        self._known = known
        self._hearsay: Hearsay[DeviceId] = Hearsay(self._who_is_at, near=self.near)
        self._seeds = tuple(parse_seed(text) for text in seeds)
        self._remembered = tuple(remembered) if credentials is not None else ()
        self._asked = interfaces
        self._look = look
        self._browser: AdvertBrowser | None = None
        self._survey = Survey()
        self._cannot_start = self._waits = ""
        self._seed_problems: dict[Seed, str] = {}
        self._sooner = asyncio.Event()  # seeds are tried at once
        self._stack = AsyncExitStack()
        for seed in self._seeds:
            if credentials is None and seed.device_id is None:
                raise InvalidInput(f"without TLS nobody proves who answers at {seed}", advice="write the seed as id@host:port")

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            first = await asyncio.to_thread(self._look, self._asked)
            browsing = await stack.enter_async_context(AsyncExitStack())
            await self._browse(browsing, Change(first))
            await stack.enter_async_context(self._hearsay)
            background = await stack.enter_async_context(Background())
            for seed in self._seeds:
                background.start(self._follow(seed), f"seed {seed}")
            background.start(self._recall(), "look for who is remembered")
            background.start(self._watch(browsing, first), "watch the network")
            background.start(self._ask_again(), "ask for who is missing")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def report(self) -> DiscoveryReport:
        """What was tried and what stood in the way, so that an empty fleet explains itself."""
        seen = self._survey
        problems = [*seen.problems, *([self._cannot_start] if self._cannot_start else []), *self._seed_problems.values()]
        browser = self._browser
        if browser is not None and browser.forgotten:
            problems.append(f"mDNS: more adverts than can be remembered, {browser.forgotten} were dropped: is somebody forging them?")
        if browser is not None and browser.unresolved:
            problems.append(f"mDNS: {browser.unresolved} adverts have no address yet")
        if len(self._hearsay):
            shown = list(islice(self._hearsay.unproven(), SHOWN))
            what = "1 device says that it is" if len(self._hearsay) == 1 else f"{len(self._hearsay)} devices say that they are"
            said = [f"mDNS: {one.claim} says that it is of this fleet, and does not prove it: {one.problem}" for one in shown]
            problems += said if len(said) == len(self._hearsay) else [f"mDNS: {what} of this fleet and did not prove it", *said[:1]]
        return DiscoveryReport(
            fleet_id=self._fleet,
            interfaces=tuple(one.address for one in seen.usable) if browser is not None else (),
            seeds=tuple(str(seed) for seed in self._seeds),
            other_fleets=browser.other_fleets if browser is not None else 0,
            problems=tuple(problems),
            mute=seen.mute,
            alone=seen.waits(self._asked),
        )

    @property
    def browsed(self) -> tuple[Interface, ...]:
        """Where mDNS is spoken now."""
        return self._survey.usable if self._browser is not None else ()

    @property
    def advertised(self) -> frozenset[DeviceId]:
        """As of AdvertBrowser."""
        return self._browser.advertised if self._browser is not None else frozenset()

    def send_probe(self, number: str) -> bool:
        """As of AdvertBrowser; False where that is not possible now."""
        if self._browser is None:
            return False
        self._browser.send_probe(number)
        return True

    def near(self, host: str) -> bool:
        """Whether the address is one of a few that are near this machine, and not one of as many as somebody likes."""
        return is_near(host, self._survey.own)

    async def _watch(self, browsing: AsyncExitStack, first: Survey) -> None:
        watching = watch.changes(first, lambda: self._look(self._asked), failed=lambda: bool(self._cannot_start))
        async with aclosing(watching) as changes:
            async for change in changes:
                moved = change.woke or change.survey != self._survey
                await self._browse(browsing, change)
                if moved:
                    _log.info("the network has changed: mDNS on %s", ", ".join(map(str, change.survey.usable)) or "no interface")
                    self._sooner.set()
                    self._moved()

    async def _browse(self, browsing: AsyncExitStack, change: Change) -> None:
        before, self._survey = self._survey, change.survey
        try:
            if self._browser is not None:
                await self._browser.follow(change)
            elif change.survey.usable:
                browser = AdvertBrowser(
                    self._fleet,
                    change.survey,
                    self._advertised,
                    self._said_goodbye,
                    enrollable=self._asks_to_join,
                    known=self._known,
                    dropped=self._removed,
                )
                self._browser = await browsing.enter_async_context(browser)
            self._cannot_start = ""
        except (OSError, RuntimeError) as error:  # a RuntimeError: an interface has gone meanwhile
            said, self._cannot_start = self._cannot_start, f"mDNS cannot start: {(isinstance(error, OSError) and error.strerror) or error}"
            if said != self._cannot_start:
                _log.warning("%s", self._cannot_start)
        for problem in change.survey.problems:
            if problem not in before.problems:
                _log.warning("%s", problem)
        waits = why_alone(change.survey.mute, bool(change.survey.usable)) if change.survey.waits(self._asked) else ""
        if waits and waits != self._waits:
            _log.warning("no other machine's devices can be heard, a network is waited for: %s", waits)
        self._waits = waits

    async def _ask_again(self) -> None:
        """Some at a time, in turn; less and less often while the same are missing: most of them are switched off."""
        asked: set[DeviceId] = set()
        delay_seconds = _ASK_AGAIN_SECONDS
        while True:
            await asyncio.sleep(delay_seconds)
            missing = self._unreached()
            if not missing:
                asked, delay_seconds = set(), _ASK_AGAIN_SECONDS
                continue
            waiting = [device for device in missing if device not in asked]
            if waiting:
                delay_seconds = _ASK_AGAIN_SECONDS
            else:  # all have had their turn
                waiting, asked, delay_seconds = list(missing), set(), min(2 * delay_seconds, _LAST_ASK_AGAIN_SECONDS)
            asked.update(waiting[:ASKED_AGAIN])
            if self._browser is not None:
                self._browser.ask_again(waiting[:ASKED_AGAIN])

    def _advertised(self, device: DeviceId, addresses: tuple[str, ...], gateway: bool) -> None:
        if self._credentials is None or self._known(device):
            self._hearsay.forget(device)
            self._found(Candidate(device, addresses, "mdns", gateway))
        else:
            self._hearsay.heard(device, addresses)

    def _said_goodbye(self, device: DeviceId) -> None:
        self._hearsay.forget(device)
        self._removed(device)

    async def _who_is_at(self, address: str, claims: tuple[DeviceId, ...], seconds: float) -> Collection[DeviceId]:
        """Whoever of ours is there is found, expected or not. Raises FleetError."""
        assert self._credentials is not None  # without, every advert is believed
        places = dialable([address])
        for place in places:
            try:
                device, gateway = await probe(place, self._credentials, seconds)
            except FleetError:
                if place == places[-1]:
                    raise
                continue
            self._found(Candidate(device, tuple(dict.fromkeys([address, *self._hearsay.addresses(device)])), "mdns", gateway))
            return (device,)
        return ()

    def _asks_to_join(self, board: DeviceId, addresses: tuple[str, ...]) -> None:
        self._stranger(board, addresses, "mdns")

    async def _follow(self, seed: Seed) -> None:
        known: DeviceId | None = None
        delay_seconds = _FIRST_DELAY_SECONDS
        while True:
            try:
                device, gateway = await self._identify(seed)
            except FleetError as error:
                if isinstance(error, Denied):
                    self._stranger(None, (seed.address,), "seed")
                self._seed_problems[seed] = f"seed {error.detail}" + (f" ({error.advice})" if error.advice else "")
                known = None
                self._sooner.clear()
                await set_within(self._sooner, delay_seconds)
                delay_seconds = min(2 * delay_seconds, _LAST_DELAY_SECONDS)
                continue
            self._seed_problems.pop(seed, None)
            delay_seconds = _FIRST_DELAY_SECONDS
            if device != known:
                known = device
                self._found(Candidate(device, (seed.address,), "seed", gateway))
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _recall(self) -> None:
        missing, delay_seconds = self._remembered, _FIRST_DELAY_SECONDS
        for _ in range(_RECALLS):
            found = await together([self._is_there(one) for one in missing], at_once=_RECALLED_AT_ONCE)
            missing = tuple(one for one, there in zip(missing, found, strict=True) if not there)
            if not missing:
                return
            self._sooner.clear()
            await set_within(self._sooner, delay_seconds)
            delay_seconds *= 2

    async def _is_there(self, one: Proven) -> bool:
        assert self._credentials is not None  # without, nobody is remembered
        try:
            device, gateway = await probe(one.address, self._credentials)
        except FleetError:
            return False
        if device == one.device:
            self._found(Candidate(device, (one.address,), "memory", gateway))
        return device == one.device

    async def _identify(self, seed: Seed) -> ProbedMember:
        if self._credentials is None:
            assert seed.device_id is not None  # checked when we were made
            return ProbedMember(seed.device_id, gateway=False)
        device, gateway = await probe(seed.address, self._credentials)
        if seed.device_id not in (None, device):
            raise Denied(f"{seed.address} is device {device}, not {seed.device_id}")
        return ProbedMember(device, gateway)
