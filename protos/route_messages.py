"""The route of an error as a message, and back."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from protos.route import MOST_HOPS, NAME_LENGTH, Hop, Route, in_words
from protos.v1 import pipeline_pb2 as pb


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
