"""Taking devices out of the fleet: those that are given away, and those that were lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fleet.devices.registry import Registry
from fleet.enrolling.upkeep import Upkeep
from fleet.enrolling.views import DepartureView
from protos.errors import Conflict, NotFound
from protos.ids import DeviceId


class Departures:
    def __init__(
        self, registry: Registry, upkeep: Upkeep, users: Callable[[DeviceId], Sequence[str]], breaks: Callable[[DeviceId], Sequence[str]]
    ) -> None:
        """`users` names the deployments that use a device, `breaks` says of each what it loses without it, a line each."""
        self._registry = registry
        self._upkeep = upkeep
        self._users = users
        self._breaks = breaks

    async def decommission(self, device: str, *, force: bool) -> DepartureView:
        """Have it remove its models and its key, and take it out of the fleet; one that cannot be reached is taken out all the same.

        Raises NotFound, Conflict while a deployment uses it and `force` is not given or when a gateway speaks for it, and what the
        device says.
        """
        member, name = await self._find(device)
        users = self._users(member)
        if users and not force:
            raise Conflict(f"{name} is used by {', '.join(users)}", advice=f"undeploy first, or --force: {'; '.join(self._breaks(member))}")
        wiped = await self._upkeep.leave(member)
        await self._take_out(member, name)
        return DepartureView(member, name, wiped, tuple(users))

    async def expel(self, device: str) -> DepartureView:
        """Take it out of the fleet, without a word to it: it may be in other hands. Raises NotFound, Conflict (a gateway speaks
        for it)."""
        member, name = await self._find(device)
        users = self._users(member)
        await self._take_out(member, name)
        return DepartureView(member, name, wiped=False, used_by=tuple(users))

    async def _take_out(self, member: DeviceId, name: str) -> None:
        await self._upkeep.revoke(member, name, lambda: self._registry.expel(member))

    async def _find(self, key: str) -> tuple[DeviceId, str]:
        """Id and name of the member of this id or name, be it there or not. Raises NotFound, InvalidInput (two have that name), Conflict
        for one that has no key of its own."""
        try:
            record = self._registry.find(key)
            if record.gateway is not None:
                raise Conflict(
                    f"{record.name} is no member of its own: gateway {record.gateway} speaks for it",
                    advice=f"take it out at the gateway, or take the gateway out: {record.gateway}",
                )
            return record.device_id, record.name
        except NotFound:
            known = [one for one in await self._upkeep.members() if key in (one.member_id, one.name)]
            if len(known) != 1:
                raise
            return known[0].member_id, known[0].name
