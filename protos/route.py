"""The way that an error took through the fleet, device by device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from protos.v1 import pipeline_pb2 as pb

MOST_HOPS = 16  # that a message carries, the last ones: they are the nearest to what went wrong
NAME_LENGTH = 32  # twice a device's id; so long a route leaves room for the cause in what a call's status may say


@dataclass(frozen=True)
class Hop:
    """A device that an error came through: its id, or its name where that is known; and its stage when it came along a ring."""

    device: str
    stage: int | None = None

    def __str__(self) -> str:
        return self.device if self.stage is None else f"stage {self.stage} on {self.device}"


Route = tuple[Hop, ...]  # the first is the nearest to whoever reads it


def in_words(route: Route) -> str:
    """What stands in front of the error's own words."""
    return "".join(f"{hop}: " for hop in route)


def named(route: Route, names: Mapping[str, str]) -> Route:
    """With the names of the devices whose ids `names` knows."""
    return tuple(replace(hop, device=names.get(hop.device, hop.device)) for hop in route)


def to_message(route: Route, cause: str) -> tuple[pb.Route, str]:
    """The message, and the error's detail beside it: the route in words, then `cause`."""
    kept = tuple(Hop(hop.device[:NAME_LENGTH], hop.stage) for hop in route[-MOST_HOPS:])
    text = in_words(kept)
    hops = [pb.Route.Hop(device=hop.device, stage=hop.stage) for hop in kept]
    return pb.Route(hops=hops, text_length=len(text)), text + cause


def from_message(message: pb.Route, detail: str) -> tuple[Route, str]:
    """The route, and the cause: what the error's `detail` says without the route."""
    hops: Sequence[pb.Route.Hop] = message.hops[-MOST_HOPS:]
    route = tuple(Hop(hop.device[:NAME_LENGTH], hop.stage if hop.HasField("stage") else None) for hop in hops)
    return route, detail[message.text_length :]


def from_bytes(data: bytes, detail: str) -> tuple[Route, str]:
    """As `from_message`; of bytes that are none, no route."""
    try:
        return from_message(pb.Route.FromString(data), detail)
    except DecodeError:
        return (), detail
