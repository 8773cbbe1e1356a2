"""The service of a gateway: which devices are behind it, what they are, and their telemetry together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import grpc.aio

from device.agent.device_service import SHORTEST_INTERVAL_SECONDS
from protos.rpc_errors import answered
from protos.silence import announced_seconds, beats_between, milliseconds
from protos.v1 import device_pb2, gateway_pb2_grpc, telemetry_pb2
from protos.v1 import gateway_pb2 as pb
from protos.versions import SPOKEN

# Of one report: a few hundred bytes each, and some milliseconds of the reader's loop together.
MEMBERS_PER_REPORT = 128
LONGEST_INTERVAL_SECONDS = 3600.0

WatchContext = grpc.aio.ServicerContext[pb.WatchGatewayRequest, pb.GatewayReport]


class GatewayMember(Protocol):
    """A device behind the gateway. None of the calls may block."""

    @property
    def boot_id(self) -> str: ...

    @property
    def answers(self) -> bool:
        """Whether it is there now; one that is not keeps its place, and is told again when it is back."""
        ...

    def describe(self) -> device_pb2.DeviceDescription: ...
    def sample(self) -> telemetry_pb2.TelemetrySample: ...


@dataclass(frozen=True)
class GatewayService(gateway_pb2_grpc.GatewayServicer):
    """`members` by their local names; the mapping may change meanwhile."""

    name: str
    members: Mapping[str, GatewayMember]

    async def Watch(self, request: pb.WatchGatewayRequest, context: WatchContext) -> AsyncIterator[pb.GatewayReport]:  # noqa: N802
        async with answered(context):
            # The order of the arguments makes not-a-number the shortest: asyncio's timers would lose their order over it.
            interval = min(max(SHORTEST_INTERVAL_SECONDS, request.interval_seconds), LONGEST_INTERVAL_SECONDS)
            beat = announced_seconds(request.beat_milliseconds)
            loop = asyncio.get_running_loop()
            due = loop.time()
            told: dict[str, str] = {}
            while True:
                # Built one by one, as the reader takes them: ten thousand devices are no single block of work.
                names = iter(list(self.members))
                while batch := list(islice(names, MEMBERS_PER_REPORT)):
                    yield self._report(batch, told)
                gone = [name for name in told if name not in self.members]
                for name in gone:
                    del told[name]
                end = self._empty()
                end.gone.extend(gone)
                end.round_complete = True
                end.beat_milliseconds = milliseconds(beat)
                yield end
                due = max(due + interval, loop.time())  # a round that was late is not made up for
                left = due - loop.time()
                beats = beats_between(left, beat)
                for _ in range(beats):
                    await asyncio.sleep(left / (beats + 1))
                    yield self._empty()
                await asyncio.sleep(due - loop.time())

    def _report(self, names: list[str], told: dict[str, str]) -> pb.GatewayReport:
        report = self._empty()
        for name in names:
            member = self.members.get(name)
            if member is None or not member.answers:
                continue
            if told.get(name) != member.boot_id:
                told[name] = member.boot_id
                report.members.add(local_name=name, description=member.describe())
            report.samples.append(member.sample())
        return report

    def _empty(self) -> pb.GatewayReport:
        return pb.GatewayReport(protocol_version=SPOKEN.newest, oldest_protocol_version=SPOKEN.oldest, name=self.name)
