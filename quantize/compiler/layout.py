"""Where everything lies in DRAM: the artifact's tensors as they are stored, caches, what the host writes and reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from protos.chip.program import Region
from quantize.compiler import ir
from quantize.compiler.ir import Matrix, Shape, Step, Stored

ALIGNMENT = 64


def regions_of(steps: Sequence[Step], shape: Shape) -> tuple[Region, ...]:
    """In the order of their first use; experts of one layer at equal distances."""
    found: dict[str, Region] = {}
    end = 0

    def add(name: str, purpose: str, size_bytes: int) -> None:
        nonlocal end
        if name not in found:
            found[name] = Region(name, purpose, end, size_bytes)  # type: ignore[arg-type]
            end = -(-(end + size_bytes) // ALIGNMENT) * ALIGNMENT

    for step in steps:
        for stored in _stored(step.operation):
            add(stored.region, "weights", stored.size_bytes)
        for name, purpose, size_bytes in _others(step.operation, shape):
            add(name, purpose, size_bytes)
    return tuple(found.values())


def cache_name(layer: int, what: str) -> str:
    return f"cache.{layer}.{what}"


def item_bytes(shape: Shape) -> int:
    """Of a cache's element."""
    return {"float32": 4, "float16": 2, "int8": 1}[shape.kv_dtype]


def _stored(operation: ir.Operation) -> Iterator[Stored]:
    for value in vars(operation).values():
        match value:
            case Stored():
                yield value
            case Matrix():
                yield from _of_matrix(value)
            case ir.Attend():
                yield from (scales for scales in (value.key_scales, value.value_scales) if scales)
            case tuple():
                for kind in zip(*value, strict=True):  # all of gate and up, then all of down
                    for same in zip(*(tuple(_of_matrix(matrix)) for matrix in kind), strict=True):
                        yield from same
            case _:
                pass


def _of_matrix(matrix: Matrix) -> Iterator[Stored]:
    yield from (stored for stored in (matrix.levels, matrix.scales, matrix.zeros) if stored)


def _others(operation: ir.Operation, shape: Shape) -> Iterator[tuple[str, str, int]]:
    match operation:
        case ir.Receive(to):
            yield "hidden_in", "input", to.buffer.size_bytes
        case ir.ReceivePlaces(region, buffer):
            yield region, "input", buffer.size_bytes
        case ir.Send():
            yield operation.region, "output", 4 * operation.source.buffer.rows * operation.columns
        case ir.Scores(attend) | ir.FusedAttend(attend):
            for what in cached(attend):
                yield cache_name(attend.layer, what), "cache", shape.sequences * sequence_bytes(attend, shape)
            if isinstance(operation, ir.Scores):
                yield "scores", "scratch", 4 * attend.packed.rows * (shape.context + shape.rows)
        case _:
            pass


def cached(attend: ir.Attend) -> tuple[str, ...]:
    return ("keys",) if attend.values is None else ("keys", "values")


def sequence_bytes(attend: ir.Attend, shape: Shape) -> int:
    """Of the keys, or the values, of one sequence: [kv_heads, context, head_dim]."""
    return attend.kv_heads * shape.context * attend.head_dim * item_bytes(shape)


def addresses(regions: Sequence[Region]) -> Mapping[str, int]:
    return {region.name: region.address for region in regions}
