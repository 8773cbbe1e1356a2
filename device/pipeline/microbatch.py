"""A step as the ring's stages are told of it."""

from __future__ import annotations

import numpy as np

from device.engine.engine import Tokens
from device.pipeline.sequences import Sequence, Step
from protos.errors import InvalidInput
from protos.v1 import pipeline_pb2 as pb


def microbatch(step: Step) -> pb.Microbatch:
    """Without its number, its rows and its modelled time."""
    message = pb.Microbatch(
        group=step.group,
        prefill=step.prefill,
        slots=[sequence.slot for sequence in step.sequences],
        positions=step.positions,
        rows=len(step.tokens),
        all_wanted=step.read_whole or bool(step.counts) or (not step.prefill and len(step.wanted) == len(step.sequences)),
        released=[_released(slot, one) for slot, one in step.released],
        swapped=[pb.Swapped(from_slot=source, to_slot=target) for source, target in step.swapped],
        opened=[pb.Opened(slot=slot, sequence=one.number, kept=kept, key=one.request.key) for slot, one, kept in step.opened],
        copied=[pb.Copied(from_slot=source, to_slot=target, rows=rows) for source, target, rows in step.copied],
        counts=step.counts,
    )
    if step.prefill and step.wanted:
        message.wanted.append(len(step.tokens) - 1)
    elif not message.all_wanted:
        message.wanted.extend(index for index, sequence in enumerate(step.sequences) if sequence in step.wanted)
    return message


def _released(slot: int, sequence: Sequence) -> pb.Released:
    drafted = sequence.speculation is not None
    return pb.Released(slot=slot, sequence=sequence.number, keep=sequence.kept_for_another, rows=sequence.length if drafted else 0)


def placed_tokens(step: Step) -> Tokens:
    """[rows, 3]: each token with the two learned positions of its row."""
    # Prefill: one sequence at consecutive rows; decode: each at its own.
    rows = (
        [(step.sequences[0], step.positions[0] + index) for index in range(len(step.tokens))]
        if step.prefill
        else list(zip(step.sequences, step.positions, strict=True))
    )
    positions = [sequence.request.positions(row) for sequence, row in rows]
    return np.array([(token, *places) for token, places in zip(step.tokens, positions, strict=True)], np.int64)


def check_returned(message: pb.Microbatch, step: Step, row_bytes: int) -> None:
    """Raises InvalidInput for a microbatch that is not what the ring's end makes of `step`: hidden rows of `row_bytes` each."""
    size = step.returned_rows * row_bytes
    same = message.group == step.group and list(message.slots) == [sequence.slot for sequence in step.sequences]
    released = [item.sequence for item in message.released] == [sequence.number for _, sequence in step.released]
    if not (same and released and len(message.hidden) == size):
        raise InvalidInput(f"step {message.step} came back changed: {len(message.hidden)} bytes of hidden rows, {size} expected")
