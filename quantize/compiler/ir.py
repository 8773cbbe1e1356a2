"""The compiler's middle: a stage as a few operators on typed buffers, which name the artifact's tensors that they read.

Buffers have one row per token, or per row that goes through the output head; a view is some of their columns. Nothing here knows a chip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from quantize.layers.operators import Rotary, Router

ElementType = Literal["float32", "int8", "int32"]
ITEM_BYTES: dict[ElementType, int] = {"float32": 4, "int8": 1, "int32": 4}


@dataclass(frozen=True)
class Buffer:
    """`rows` x `width` elements."""

    name: str
    rows: int
    width: int
    type: ElementType = "float32"

    @property
    def pitch(self) -> int:
        """Bytes from row to row."""
        return self.width * ITEM_BYTES[self.type]

    @property
    def size_bytes(self) -> int:
        return self.rows * self.pitch


@dataclass(frozen=True)
class View:
    """`width` columns of a buffer from `start` on."""

    buffer: Buffer
    start: int
    width: int

    @property
    def offset(self) -> int:
        """Bytes within a row."""
        return self.start * ITEM_BYTES[self.buffer.type]

    def __str__(self) -> str:
        whole = self.start == 0 and self.width == self.buffer.width
        columns = "" if whole else f"[{self.start}:{self.start + self.width}]"
        return f"{self.buffer.name}{columns}"


@dataclass(frozen=True)
class Quantized:
    """int8 levels [rows, blocks x block] and their scales [rows, blocks]."""

    levels: Buffer
    scales: Buffer
    block: int

    def __str__(self) -> str:
        return self.levels.name


@dataclass(frozen=True)
class Stored:
    """A tensor of the artifact by the name of its region."""

    region: str
    size_bytes: int

    def __str__(self) -> str:
        return self.region


@dataclass(frozen=True)
class Matrix:
    """[rows, columns] of the artifact; by blocks of `bits` bits, or float32 where `bits` is 32. `zeros`: a zero point for each block."""

    levels: Stored
    scales: Stored | None
    zeros: Stored | None
    rows: int
    columns: int
    bits: int
    block: int

    @property
    def blocks(self) -> int:
        return -(-self.columns // self.block)

    @property
    def row_bytes(self) -> int:
        return self.blocks * self.block * self.bits // 8 if self.scales else 4 * self.columns

    def __str__(self) -> str:
        return f"{self.levels.region} {self.bits} bit [{self.rows}, {self.columns}]"


@dataclass(frozen=True)
class Receive:
    """Rows of the residual stream from the host."""

    to: View


@dataclass(frozen=True)
class ReceivePlaces:
    """Whole numbers from the host: token ids, or positions. Before all else, so that nothing has to be waited for."""

    region: str
    to: Buffer


@dataclass(frozen=True)
class Gather:
    """A row of the table for each token's id, dequantized."""

    ids: Buffer
    table: Matrix
    to: View


@dataclass(frozen=True)
class AddPositions:
    """Rows of a float32 table, one for each token's place in column `column` of `positions`, onto `to`."""

    positions: Buffer
    column: int
    table: Matrix
    to: View


@dataclass(frozen=True)
class Normalize:
    """RMS norm over each of `heads` pieces of a row; layer norm where there is a bias."""

    source: View
    gain: Stored
    bias: Stored | None
    epsilon: float
    heads: int
    to: View


@dataclass(frozen=True)
class Quantize:
    """int8 by row and block: scale = absmax / 127, level = x * (127 / absmax) rounded to even."""

    source: View
    to: Quantized


@dataclass(frozen=True)
class NormalizeQuantize:
    """Both at once, of RMS norm."""

    source: View
    gain: Stored
    epsilon: float
    to: Quantized


@dataclass(frozen=True)
class Product:
    """Of int8 levels with rows [first, first + to.width) of a matrix, plus a bias."""

    source: Quantized
    matrix: Matrix
    first: int
    bias: Stored | None
    to: View


@dataclass(frozen=True)
class FloatProduct:
    """Of float32 rows with rows [first, first + to.width) of a float32 matrix, plus a bias."""

    source: View
    matrix: Matrix
    first: int
    bias: Stored | None
    to: View


@dataclass(frozen=True)
class Copy:
    source: View
    to: View


@dataclass(frozen=True)
class Turn:
    """Each of `heads` pieces of a row by its token's position."""

    source: View
    heads: int
    rotary: Rotary
    cos: Stored
    sin: Stored
    table_columns: int
    to: View


@dataclass(frozen=True)
class Attend:
    """Attention over `layer`'s cache and the rows themselves, which the cache gets."""

    queries: View
    keys: View
    values: View | None  # None: the keys are the values
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    scale: float
    key_scales: Stored | None  # of an int8 cache
    value_scales: Stored | None
    packed: Buffer  # queries by key head, scaled [kv_heads x rows x shared, head_dim] for each sequence
    own: Buffer  # keys, then values, as the cache has them
    to: View


@dataclass(frozen=True)
class Scores:
    """Queries x keys of every head into DRAM: the first third of an attention that is not fused."""

    attend: Attend


@dataclass(frozen=True)
class Softmax:
    """Of one head's scores in DRAM, and its product with the values: what remains of an attention that is not fused."""

    attend: Attend


@dataclass(frozen=True)
class FusedAttend:
    """An attention whose scores never leave the chip."""

    attend: Attend


@dataclass(frozen=True)
class SwiGlu:
    source: View
    to: View


@dataclass(frozen=True)
class Gelu:
    source: View
    to: View


@dataclass(frozen=True)
class Add:
    a: View
    b: View
    to: View


@dataclass(frozen=True)
class Route:
    """Of each row's logits the chosen experts' numbers (int32) and weights."""

    logits: View
    bias: Stored
    router: Router
    scratch: Buffer
    chosen: Buffer
    weights: Buffer


@dataclass(frozen=True)
class Experts:
    """Onto `to`, for each row, its chosen experts' SwiGLU blocks times their weights."""

    source: Quantized
    chosen: Buffer
    weights: Buffer
    members: tuple[tuple[Matrix, Matrix], ...]  # (gate and up, down) of each expert, all of one shape
    gates: Buffer  # one row
    product: Buffer
    quantized: Quantized
    result: Buffer
    to: View


@dataclass(frozen=True)
class LastRows:
    """Of each sequence its last row."""

    source: View
    to: View


@dataclass(frozen=True)
class Send:
    """To columns [first, first + width) of a region [rows, columns] that the host reads."""

    source: View
    region: str
    first: int
    columns: int


Operation: TypeAlias = (
    Receive
    | ReceivePlaces
    | Gather
    | AddPositions
    | Normalize
    | Quantize
    | NormalizeQuantize
    | Product
    | FloatProduct
    | Copy
    | Turn
    | Attend
    | Scores
    | Softmax
    | FusedAttend
    | SwiGlu
    | Gelu
    | Add
    | Route
    | Experts
    | LastRows
    | Send
)


@dataclass(frozen=True)
class Step:
    """An operation, and what it is called: "layers.3 qkv.out"."""

    name: str
    operation: Operation


@dataclass(frozen=True)
class Shape:
    """What a program is compiled for besides its stage."""

    sequences: int = 1
    rows: int = 1
    context: int = 1024
    kv_dtype: str = "float32"

    @property
    def tokens(self) -> int:
        return self.sequences * self.rows


def buffers(operation: object) -> Iterator[Buffer]:
    """All that it reads or writes, in the order of its fields."""
    for field in fields(operation):  # type: ignore[arg-type]
        yield from _within(getattr(operation, field.name))


def _within(value: object) -> Iterator[Buffer]:
    match value:
        case Buffer():
            yield value
        case View():
            yield value.buffer
        case Quantized():
            yield from (value.levels, value.scales)
        case Attend():
            yield from buffers(value)
        case _:
            return


def shown(step: Step) -> str:
    """One line of a dump."""
    words = [f"{field.name}={_word(getattr(step.operation, field.name))}" for field in fields(step.operation)]
    return f"{step.name}: {type(step.operation).__name__} {' '.join(words)}"


def _word(value: object) -> str:
    match value:
        case Buffer():
            return f"{value.name}<{value.type} {value.rows} x {value.width}>"
        case Attend():
            return f"({' '.join(f'{field.name}={_word(getattr(value, field.name))}' for field in fields(value))})"
        case tuple():
            return f"{len(value)} of {' and '.join(map(str, value[0]))}"
        case Rotary():
            return f"{value.dim}{' halves' if value.halves else ''}"
        case Router():
            return f"{value.per_token} of {value.count}"
        case _:
            return str(value)
