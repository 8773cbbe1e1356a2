"""What the fleet has cost and how it went, of all that has come until it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from fleet.devices.registry import Registry
from fleet.devices.views import DeviceView
from fleet.telemetry.distributions import MOST_PERCENTILES, PERCENTILES_BY
from fleet.telemetry.ingest import Ingest
from fleet.telemetry.records import GROUPINGS, TelemetryRecords
from fleet.telemetry.views import CostRow, History, Percentiles
from protos.errors import InvalidInput


class Costs:
    """Queries over the store, off the event loop."""

    def __init__(self, registry: Registry, ingest: Ingest, records: TelemetryRecords, now: Callable[[], float]) -> None:
        """`now` in unix seconds."""
        self._registry = registry
        self._ingest = ingest
        self._records = records
        self._now = now

    async def rows(self, since_seconds: float, by: str) -> list[CostRow]:
        """What the last `since_seconds` cost. Raises InvalidInput for a span or a grouping that is none."""
        _check(since_seconds)
        if by not in GROUPINGS:
            raise InvalidInput(f"cannot group by {by!r}", advice=f"group by {', '.join(GROUPINGS)}")
        if by == "device":  # its figures are the devices' counters: those of the last second count too
            await self._registry.sample()
        await self._ingest.flush()
        return await asyncio.to_thread(self._records.costs, since_seconds, GROUPINGS[by], self._now())

    async def history(self, since_seconds: float, device: DeviceView | None) -> History:
        """How the last `since_seconds` went, of one device or of all. Raises InvalidInput for a span that is none."""
        _check(since_seconds)
        await self._ingest.flush()
        of = (device.name, device.device_id) if device else ()
        return await asyncio.to_thread(self._records.history, since_seconds, self._now(), *of)

    async def percentiles(self, since_seconds: float, by: str, wanted: Sequence[float]) -> Percentiles:
        """How the figures of the requests of the last `since_seconds` were distributed. Raises InvalidInput for what is no span, no
        grouping or no percentile."""
        _check(since_seconds)
        if by not in PERCENTILES_BY:
            raise InvalidInput(f"no percentiles by {by!r}", advice=f"by {' or '.join(PERCENTILES_BY)}: a request has no distribution")
        if not 1 <= len(wanted) <= MOST_PERCENTILES or not all(0 <= one <= 100 for one in wanted):
            raise InvalidInput(f"{len(wanted)} percentiles", advice=f"1 to {MOST_PERCENTILES} of them, each from 0 to 100")
        return await asyncio.to_thread(self._records.percentiles, since_seconds, self._now(), PERCENTILES_BY[by], wanted)


def _check(since_seconds: float) -> None:
    if not since_seconds > 0:
        raise InvalidInput(f"a span of {since_seconds:g} s", advice="for example --since 10m")
