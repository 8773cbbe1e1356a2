"""Whether a stage computes what its import recorded: a few known rows go through it before it serves.

A digest says that bytes arrived as they were sent. This finds what a digest cannot: weights that were wrong when they were hashed, memory
or kernels that are wrong here. The recorded rows are those of fp32 activations on the weights as they are stored, so a right stage is off
by its int8 rounding; the tolerance lies above that on every kind of processor. They are float16, so what layers that add next to nothing
add is known to its last place only: an error within that place is none.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np

from device.engine.engine import Engine, Output, Rows, Tokens
from device.engine.kv import SlotGroup
from device.engine.session import Session, scalar_like, share
from device.engine.stage import bound_caches
from device.stage_spec import Golden, StageSpec
from protos.errors import Corrupt

# float16 keeps 11 bits of a value, and nothing below its smallest step.
_HALF_PLACE, _SMALLEST_STEP = 2.0**-11, 2.0**-24
_ADVICE = "import the model again and deploy it; if that changes nothing, this device computes wrongly: take another"


def check_stage(spec: StageSpec, engine: Engine, blob_folder: Path, threads: int) -> None:
    """Runs the golden rows through the stage, whose caches hold nothing before and after. Raises Corrupt naming the layer that is wrong.

    A wrong layer is looked for with a second session, which takes the weights' memory once more.
    """
    golden = spec.golden
    if golden is None:
        return
    recorded = _recorded(spec, golden)
    found = engine.prefill(0, 0, 0, _tokens(spec, golden) if spec.is_head else recorded[0])
    with np.errstate(over="ignore", invalid="ignore"):
        off = deviation(found - recorded[-1], _added(recorded), _left_open(golden.scale, recorded[0], recorded[-1]))
    engine.groups[0].free_all()
    if off <= golden.tolerance:
        return
    stage = f"layers [{spec.shape.first_layer}, {spec.shape.stop_layer})"
    culprit = _wrong_layer(spec, golden, recorded, blob_folder, threads) if golden.layers_graph else None
    raise Corrupt(
        f"{stage if culprit is None else f'layer {culprit} of {stage}'} gives other rows than its import recorded "
        f"(off by {off:.2g}, {golden.tolerance:.2g} may be rounding)",
        advice=_ADVICE,
    )


def check_head(spec: StageSpec, output: Output) -> None:
    """Runs the last layer's golden rows through the output head. Raises Corrupt when it gives other logits than the import recorded."""
    golden = spec.golden
    if golden is None or not golden.logits:
        return
    hidden = _scaled(golden.head_hidden, golden.scale).reshape(-1, spec.shape.hidden_size)
    recorded = _scaled(golden.logits, golden.logits_scale).reshape(len(hidden), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        off = deviation(output.logits(hidden) - recorded, _size(recorded), _left_open(golden.logits_scale, recorded))
    if off > golden.head_tolerance:
        raise Corrupt(
            f"the output head gives other logits than its import recorded (off by {off:.2g}, {golden.head_tolerance:.2g} may be rounding)",
            advice=_ADVICE,
        )


def deviation(error: Rows, added: Rows, left_open: Rows) -> float:
    """Of rows [tokens, H], in the size of what the layers added to the stream: the largest over elements of the median over tokens.
    `left_open` is how much of each element's error the recording may be itself.

    int8 rounding is independent from token to token, a wrong weight is not; and single tokens may be unusual (a first one's rows are
    ten times as long, and rounded accordingly).
    """
    scale = added + np.finfo(np.float32).tiny
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.nan_to_num(np.maximum(np.abs(error) - left_open, 0) / scale, nan=np.inf, posinf=np.inf)
    return float(np.sort(off, axis=0)[len(off) // 2].max())


def _recorded(spec: StageSpec, golden: Golden) -> Rows:
    """[layers + 1, tokens, H]."""
    return _scaled(golden.hidden, golden.scale).reshape(-1, len(golden.token_ids), spec.shape.hidden_size)


def _added(recorded: Rows) -> Rows:
    """[tokens, H] of rows [n, tokens, H] before and after each layer: the size of what they add, which is rounded even where one layer
    takes away what another gave."""
    each = np.sqrt(np.sum([np.square(_size(after - before)) for before, after in pairwise(recorded)], axis=0))
    together: Rows = np.maximum(_size(recorded[-1] - recorded[0]), each)
    return together


def _size(rows: Rows) -> Rows:
    """Root mean square of each token's row, or of an element over the tokens where that is more: a matrix's loud row is rounded by more."""
    squares = np.square(rows)
    size: Rows = np.sqrt(np.maximum(squares.mean(axis=1, keepdims=True), squares.mean(axis=0, keepdims=True)))
    return size


def _left_open(scale: float, *recorded: Rows) -> Rows:
    """What rounding these rows to float16, in units of `scale`, may have changed in a difference of them."""
    widest: Rows = np.sum([np.abs(rows) * np.float32(_HALF_PLACE) for rows in recorded], axis=0)
    return widest + np.float32(len(recorded) * scale * _SMALLEST_STEP)


def _scaled(data: bytes, scale: float) -> Rows:
    values: Rows = np.frombuffer(data, np.float16).astype(np.float32) * np.float32(scale)
    return values


def _tokens(spec: StageSpec, golden: Golden) -> Tokens:
    """As `Engine.prefill` takes them, from a sequence's start."""
    ids = np.array(golden.token_ids, np.int64)
    return np.stack([ids, np.arange(len(ids)), np.zeros_like(ids)], axis=1) if spec.shape.learned_positions else ids


def _wrong_layer(spec: StageSpec, golden: Golden, recorded: Rows, blob_folder: Path, threads: int) -> int:
    """The first that adds an error beyond the tolerance, else the one that adds the largest."""
    found = _trace(spec, golden, recorded[0], blob_folder, threads)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = [np.zeros_like(recorded[0]), *(rows - own for rows, own in zip(found, recorded[1:], strict=True))]
        offs = [
            deviation(b - a, _size(after - before), _left_open(golden.scale, before, after))
            for (a, b), (before, after) in zip(pairwise(errors), pairwise(recorded), strict=True)
        ]
    beyond = [layer for layer, off in enumerate(offs) if off > golden.tolerance]
    return spec.shape.first_layer + (beyond[0] if beyond else int(np.argmax(offs)))


def _trace(spec: StageSpec, golden: Golden, first: Rows, blob_folder: Path, threads: int) -> list[Rows]:
    """The residual stream after each layer, [tokens, H]."""
    tokens = len(golden.token_ids)
    shape = dataclasses.replace(spec.shape, context=tokens, groups=1, slots_per_group=2)
    session = Session(golden.layers_graph, blob_folder, threads, blobs=spec.blobs)
    caches = list(bound_caches(SlotGroup(shape), 0, 1))
    total = scalar_like(session.inputs["total_sequence_length"])
    total[...] = tokens
    fed: dict[str, Rows | Tokens] = {"hidden_in": first}
    if spec.is_head:
        placed = _tokens(spec, golden).reshape(tokens, -1)
        fed = {"input_ids": placed[:, 0]}
        if spec.shape.learned_positions:
            fed["position_ids"] = placed[:, 1:]
    outputs = {layer: np.zeros((1, tokens, shape.hidden_size), np.float32) for layer in shape.layers}
    binding = session.bind(
        [
            *((name, share(np.ascontiguousarray(rows[None]))) for name, rows in fed.items()),
            ("seqlens_k", share(np.array([tokens - 1], np.int32))),
            ("total_sequence_length", share(total)),
            *((past, value) for past, _, value in caches),
        ],
        [*((f"layers.{layer}.out", share(rows)) for layer, rows in outputs.items()), *((present, value) for _, present, value in caches)],
    )
    binding.run()
    return [rows[0] for rows in outputs.values()]
