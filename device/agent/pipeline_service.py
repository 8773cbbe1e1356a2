"""The Pipeline service: clients at the head, neighbours at every stage."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc.aio

from device.agent.host import StageHost
from device.pipeline.clients import Client
from device.pipeline.head import Head
from device.pipeline.inbound import FlowContext, Inbound
from device.pipeline.kept import parse_kept
from device.pipeline.mirrored import MirrorContext, take_mirrored
from device.pipeline.relay import relay
from device.stage_spec import PreviousHop, StageSpec
from device.tasks import first_of
from protos.errors import Denied, InvalidInput, TimedOut
from protos.ids import DeviceId
from protos.net.beats import Watch
from protos.net.roles import caller_of
from protos.net.transport import Credentials
from protos.route import Hop
from protos.rpc_errors import answered
from protos.silence import announced_seconds
from protos.v1 import pipeline_pb2 as pb
from protos.v1 import pipeline_pb2_grpc
from protos.versions import in_common

# Who opens a stream says at once what it is for.
OPENING_SECONDS = 10.0

# Characters of the name a neighbour gives itself, for messages: more than any device id has.
MOST_NAMED = 64
_US = "this device"
_BEAT = pb.GenerateRequest()

GenerateContext = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateEvent]


@dataclass(frozen=True)
class PipelineService(pipeline_pb2_grpc.PipelineServicer):
    host: StageHost
    credentials: Credentials | None

    # Both in grpc.aio's reader/writer form, which its type stubs do not know for servicers: reading and writing go on side by side.
    async def Generate(self, request_iterator: object, context: GenerateContext) -> None:  # type: ignore[override]  # noqa: N802
        async with answered(context):
            first = await _opening(context)
            if not isinstance(first, pb.GenerateRequest) or first.WhichOneof("kind") != "attach":
                raise InvalidInput("the first message must be Attach")
            in_common(first.attach, "the coordinator", _US)
            head = self.host.head_for(first.attach)
            await head.connect()
            beat_seconds = announced_seconds(first.attach.beat_milliseconds)
            await context.write(pb.GenerateEvent(attached=True, takes_beats=bool(beat_seconds)))
            client = Client()
            try:
                with Watch(beat_seconds) as watch:
                    taken, gone = _take_requests(head, client, context, watch), watch.until_gone(Hop("the coordinator"))
                    await first_of(taken, _send_events(client, context), head.stage.unloaded(), gone)
            finally:
                head.abandon(client)

    async def Flow(self, request_iterator: object, context: FlowContext) -> None:  # type: ignore[override]  # noqa: N802
        async with answered(context):
            first = await _opening(context)
            if not isinstance(first, pb.FlowMessage) or first.WhichOneof("kind") != "open":
                raise InvalidInput("the first message must be FlowOpen")
            in_common(first.open, f"device {first.open.from_device[:MOST_NAMED]}", _US)
            loaded = self.host.stage_for(first.open)
            if (before := loaded.stage.spec.previous) is not None:
                _check_sender(loaded.stage.spec, before, first.open.from_device, context)
            ring_id = first.open.ring_id
            if not ring_id:
                raise InvalidInput("the ring has no id")
            spec, sender = loaded.stage.spec, DeviceId(first.open.from_device[:MOST_NAMED])
            where, busy = Hop(sender, (spec.stage - 1) % spec.stages), loaded.head.is_busy if loaded.head else loaded.stage.is_busy
            inbound = Inbound(context, spec.shape, first.open, where, loaded.stage.doubts, busy)
            kept = parse_kept(first.open.kept, spec.shape.groups, spec.shape.slots_per_group)
            if loaded.head:
                served = loaded.head.take_returns(ring_id, sender, inbound, kept)
            else:
                served = relay(loaded.stage, ring_id, inbound, self.credentials, kept)
            await first_of(served, loaded.stage.unloaded())

    async def Mirror(self, request_iterator: object, context: MirrorContext) -> None:  # type: ignore[override]  # noqa: N802
        async with answered(context):
            first = await _opening(context)
            if not isinstance(first, pb.MirrorMessage) or first.WhichOneof("kind") != "open":
                raise InvalidInput("the first message must be MirrorOpen")
            in_common(first.open, f"device {first.open.from_device[:MOST_NAMED]}", _US)
            stage = self.host.standby_for(first.open)
            if stage.spec.mirror_from is None:
                raise Denied(f"stage {stage.spec.stage} of {stage.spec.pipeline} here was told of nobody who mirrors it")
            _check_sender(stage.spec, stage.spec.mirror_from, first.open.from_device, context)
            await first_of(take_mirrored(stage, context), stage.unloaded())


def _check_sender(spec: StageSpec, wanted: PreviousHop, named: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Only the stage before may send us rows, and only the stage for which we stand by its cache: another member could end the ring, or
    answer in its place. `named`: what the sender calls itself. Raises Denied."""
    caller = caller_of(context)
    shown = caller.member_id if caller else DeviceId(named)  # without TLS its word has to do
    expected = wanted.caller if caller else wanted.device
    if shown != expected:
        raise Denied(f"stage {spec.stage} of {spec.pipeline} takes rows from {expected}, not from {shown[:MOST_NAMED]}")


async def _opening(context: grpc.aio.ServicerContext[Any, Any]) -> object:
    try:
        async with asyncio.timeout(OPENING_SECONDS):
            return await context.read()
    except TimeoutError:
        raise TimedOut(f"nothing was said on the stream for {OPENING_SECONDS:.0f} s") from None


async def _take_requests(head: Head, client: Client, context: GenerateContext, watch: Watch) -> None:
    while isinstance(message := await context.read(), pb.GenerateRequest):
        watch.heard()
        if watch.beats and message == _BEAT:
            continue
        with watch.excused():
            await client.room()
        match message.WhichOneof("kind"):
            case "submit":
                head.submit(client, message.submit)
            case "cancel":
                head.cancel(client, message.cancel.sequence, keep=message.cancel.keep)
            case "pause":
                head.pause(client, message.pause.sequence, message.pause.paused)
            case "vocabulary":
                head.learn(message.vocabulary)
            case _:
                raise InvalidInput("expected Submit, Cancel, Pause or Vocabulary")


async def _send_events(client: Client, context: GenerateContext) -> None:
    while True:
        await context.write(await client.take())
