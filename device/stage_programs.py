"""Which programs and weights a stage consists of that runs on a chip, as frozen data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from protos.errors import InvalidInput
from protos.ids import Digest, parse_digest
from protos.v1 import chip_pb2 as pb

MOST_WEIGHTS = 1 << 20  # 92 layers of 160 experts have 120,000
_MOST_PROGRAMS = 64  # contexts by powers of two


@dataclass(frozen=True)
class StoredTensor:
    """A region of weights of the programs: bytes [offset, offset + size_bytes) of a blob."""

    region: str
    blob: Digest
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class StagePrograms:
    """Blobs that are programs, and where their weights lie. `layers` are one for each context, in this order; `head` is of stage 0."""

    layers: tuple[Digest, ...]
    head: Digest | None
    weights: tuple[StoredTensor, ...]

    @property
    def files(self) -> frozenset[Digest]:
        """All programs."""
        return frozenset((*self.layers, *((self.head,) if self.head else ())))


def parse_programs(message: pb.StagePrograms, blobs: Collection[Digest], *, is_head: bool) -> StagePrograms:
    """`blobs`: of the stage. Raises InvalidInput when the message contradicts itself or them."""
    if not 0 < len(message.layers) <= _MOST_PROGRAMS or len(message.weights) > MOST_WEIGHTS:
        raise InvalidInput(f"a stage of {len(message.layers)} programs over {len(message.weights)} tensors is refused")
    if is_head != bool(message.head):
        raise InvalidInput("the programs of a stage have an output head where the stage has none, or the other way round")
    try:
        programs = StagePrograms(
            tuple(map(parse_digest, message.layers)),
            parse_digest(message.head) if message.head else None,
            tuple(StoredTensor(one.region, parse_digest(one.blob), one.offset, one.size_bytes) for one in message.weights),
        )
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    if not programs.files | {one.blob for one in programs.weights} <= set(blobs):
        raise InvalidInput("a program of the stage, or its weights, lie in blobs that the stage does not have")
    return programs
