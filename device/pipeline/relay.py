"""A stage that is not the head: what comes in is carried out in order and handed on."""

from __future__ import annotations

from collections.abc import Iterable

from device.pipeline.inbound import Inbound
from device.pipeline.kept import KeptRows
from device.pipeline.link import Link
from device.pipeline.stage import Stage
from device.pipeline.wire import encode
from protos.errors import Conflict, Internal
from protos.net.transport import Credentials


async def relay(stage: Stage, ring_id: str, inbound: Inbound, credentials: Credentials | None, kept: Iterable[KeptRows]) -> None:
    """Serve one inbound stream until either neighbour ends it, or is silent for too long. Raises why.

    `kept`: what all stages before keep of the sequences of the ring before.
    """
    following = stage.spec.next
    if following is None:
        raise Internal(f"stage {stage.spec.stage} has no next hop")
    kept = await stage.join_ring(ring_id, kept)
    try:
        async with Link(stage.spec, following, ring_id, credentials, stage.device, stage.doubts, kept, stage.is_busy) as link:
            stage.aim(following.led_by(link.address))
            await inbound.accept(max(stage.clock.free_at, link.modelled_clock))
            await inbound.serve(_pass_on(stage, ring_id, inbound, link), link.ended())
    finally:
        if stage.ring_id == ring_id:
            stage.leave_ring()


async def _pass_on(stage: Stage, ring_id: str, inbound: Inbound, link: Link) -> None:
    last = stage.spec.stage == stage.spec.stages - 1
    async for message in inbound:
        if stage.ring_id != ring_id:
            raise Conflict(f"stage {stage.spec.stage} belongs to a newer ring")
        hidden = await stage.step(message)
        if hidden is not None:
            if last and not message.all_wanted:
                hidden = hidden[list(message.wanted)]
            message.hidden = encode(hidden, stage.spec.shape.wire_dtype)
        stage.counters.sent_bytes += await link.send(message)
