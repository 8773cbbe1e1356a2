"""The rows that a standby is sent of the cache for which it stands by."""

from __future__ import annotations

import uuid
from typing import TypeAlias

import grpc.aio

from device.pipeline.kept import MOST_KEY_BYTES
from device.pipeline.stage import Stage
from protos.errors import Conflict, InvalidInput
from protos.v1 import pipeline_pb2 as pb
from protos.versions import SPOKEN

MirrorContext: TypeAlias = "grpc.aio.ServicerContext[pb.MirrorMessage, pb.MirrorReply]"


async def take_mirrored(stage: Stage, context: MirrorContext) -> None:
    """Serve one stream, whose opening was read, until it ends. Raises Conflict when a newer one has come, InvalidInput."""
    stage.ring_id = stream = uuid.uuid4().hex
    stage.free_all()
    await context.write(pb.MirrorReply(protocol_version=SPOKEN.newest, oldest_protocol_version=SPOKEN.oldest))
    while isinstance(message := await context.read(), pb.MirrorMessage):
        if stage.ring_id != stream or stage.is_unloaded:
            raise Conflict("this stage is mirrored by another stream, or stands by no longer")
        match message.WhichOneof("kind"):
            case "rows":
                take_rows(stage, message.rows)
            case "forgotten":
                for key in message.forgotten.keys:
                    stage.kept.drop(key)
            case _:
                raise InvalidInput("expected rows, or who is forgotten")
        await context.write(pb.MirrorReply())


def take_rows(stage: Stage, rows: pb.MirroredRows) -> None:
    """Raises InvalidInput for rows that do not follow those before, or do not fit this stage."""
    if not 0 < len(rows.key) <= MOST_KEY_BYTES or rows.start + rows.count > stage.spec.shape.context:
        raise InvalidInput(f"mirrored rows [{rows.start}, {rows.start + rows.count}) of a key of {len(rows.key)} bytes")
    place = stage.kept.place(rows.key)
    group, slot = place or _free_place(stage)
    if place is None:
        stage.engine.groups[group].lengths[slot] = 0
    stage.engine.groups[group].put(slot, rows.start, rows.count, rows.data)
    if place is None:
        stage.kept.put(rows.key, group, slot, None)


def _free_place(stage: Stage) -> tuple[int, int]:
    taken = {place for _, place in stage.kept}
    every = ((group, slot) for group in range(len(stage.engine.groups)) for slot in range(stage.spec.shape.slots_per_group))
    free = next((place for place in every if place not in taken), None)
    if free is None:
        raise InvalidInput(f"more sequences are mirrored than stage {stage.spec.stage} has slots")
    return free
