"""A decoder's layer, embedding or output head as operators on named values: data, of which everything that runs or counts one is made.

A value has one row per token; its name is the layer's own ("attention.qkv.out"), written once and read after that. Widths follow from
the parameters: no operator changes how many rows there are. Interpreters match on the classes of `Operator` and end in `assert_never`,
so that a new operator fails the type check of each that does not know it yet:

    quantize.layers.onnx_nodes        nodes of an ONNX graph
    quantize.layers.reference         numpy in float64, each matrix used when it is there
    quantize.artifact.operator_costs  multiply-accumulates, bytes of weights and of the cache
    quantize.compiler.lowering        programs of chips
    quantize.layers.stream            which matrices read and write the residual stream
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from protos.manifest import RopeScaling

# The value that a block is given: the residual stream [tokens, H], or token ids [tokens] of an embedding.
INPUT = "input"


@dataclass(frozen=True)
class TensorParameter:
    """A tensor of the model by its neutral name: `name` in `part`, which is "" or what follows "layers.N." in a part's name.

    `shared_from` is the part that keeps the bytes of one that is stored elsewhere (a tied head's matrix), "" where this part does.
    """

    part: str
    name: str
    shape: tuple[int, ...]
    shared_from: str = ""

    @property
    def path(self) -> str:
        """The name in the layer: "qkv.weight", "experts.0-15.3.down.weight"."""
        return f"{self.part}.{self.name}" if self.part else self.name

    @property
    def by_blocks(self) -> bool:
        """Whether this is a matrix [out, in] in the artifact's scheme of quantization; anything else is stored as it is, in float32."""
        return self.name.endswith("weight")


@dataclass(frozen=True)
class Embed:
    """A row of `table` [V, H] for each token id."""

    input: str
    output: str
    table: TensorParameter


@dataclass(frozen=True)
class LearnedPositions:
    """Adds a row of each of `tables` [positions, H]; a token has a position for each table."""

    input: str
    output: str
    tables: tuple[TensorParameter, ...]


@dataclass(frozen=True)
class Norm:
    """RMS norm, or layer norm where there is a bias, over `gain`'s width: whole rows where `heads` is 0, else each of a row's `heads`."""

    input: str
    output: str
    gain: TensorParameter
    bias: TensorParameter | None
    epsilon: float
    heads: int = 0


@dataclass(frozen=True)
class Linear:
    """The product with `weight` [out, in], plus `bias` [out]."""

    input: str
    output: str
    weight: TensorParameter
    bias: TensorParameter | None = None


@dataclass(frozen=True)
class SplitHeads:
    """Rows of [heads + 2 kv_heads, head_dim] into `queries`, `keys` and `values`."""

    input: str
    queries: str
    keys: str
    values: str
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Split:
    """Cuts each row into `outputs`, of `widths` elements; one called "" is of no use."""

    input: str
    outputs: tuple[str, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Join:
    """Rows of `inputs` side by side."""

    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Rotary:
    """Which pairs of a head's first `dim` elements turn: (2i, 2i + 1), or half of `dim` apart where `halves`, pair i at position p by
    p * theta^(-2i / dim) unless `scaling` says otherwise. Source: RoFormer (arXiv:2104.09864), eq. 15."""

    dim: int
    theta: float
    halves: bool
    scaling: RopeScaling | None = None


@dataclass(frozen=True)
class Rope:
    """Turns each head by the token's position."""

    input: str
    output: str
    rotary: Rotary


@dataclass(frozen=True)
class Cache:
    """Of keys and values, after `Rope`; an int8 one has a step's size for each of its channels [kv_heads x head_dim], found at import."""

    key_scale: TensorParameter
    value_scale: TensorParameter


@dataclass(frozen=True)
class Attention:
    """Softmax of queries x keys x scale, times values; heads / kv_heads queries share a key. Keys and values of tokens before come from the
    cache, which is one where both are the same value. Not `causal`: tokens that come together see one another, as a prefix does."""

    queries: str
    keys: str
    values: str
    output: str
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    cache: Cache
    scale: float | None = None  # None: 1 / sqrt(head_dim)

    @property
    def values_are_keys(self) -> bool:
        return self.values == self.keys


@dataclass(frozen=True)
class SwiGlu:
    """SiLU of the first half of a row times the second: [2 width] -> [width]."""

    input: str
    output: str
    width: int


@dataclass(frozen=True)
class Gelu:
    """x times the normal distribution's share below x, exactly."""

    input: str
    output: str
    width: int


@dataclass(frozen=True)
class Add:
    """What a branch made (`branch`) onto the residual stream (`stream`)."""

    stream: str
    branch: str
    output: str


@dataclass(frozen=True)
class Router:
    """Scores are sigmoid(rows x `matrix` [count, H]); the `per_token` best by score + `bias`, of the `groups_per_token` best of `groups`
    (by their two best), are chosen. A chosen one's weight is its score (over the sum of the chosen where `normalized`) times `scale`."""

    matrix: TensorParameter
    bias: TensorParameter
    groups: int
    groups_per_token: int
    per_token: int
    normalized: bool
    scale: float

    @property
    def count(self) -> int:
        return self.matrix.shape[0]


@dataclass(frozen=True)
class Expert:
    """`block` runs on the rows whose router chose `number`."""

    number: int
    block: Block


@dataclass(frozen=True)
class Mixture:
    """What `shared` makes of every row, plus each row's chosen experts' times their weights, in the order of their numbers."""

    input: str
    output: str
    router: Router
    shared: Block
    experts: tuple[Expert, ...]


Operator: TypeAlias = (
    Embed | LearnedPositions | Norm | Linear | SplitHeads | Split | Join | Rope | Attention | SwiGlu | Gelu | Add | Mixture
)


@dataclass(frozen=True)
class Block:
    """Operators in an order in which each finds its inputs made: `input` is given, `output` is what is asked for."""

    operators: tuple[Operator, ...]
    output: str
    input: str = INPUT


def parameters(block: Block) -> Iterator[TensorParameter]:
    """What a checkpoint holds of the block, in the order of storing, which is that in which its operators come."""
    for operator in block.operators:
        match operator:
            case Embed():
                yield operator.table
            case LearnedPositions():
                yield from operator.tables
            case Norm():
                yield from _present(operator.gain, operator.bias)
            case Linear():
                yield from _present(operator.weight, operator.bias)
            case Mixture():
                yield from (operator.router.matrix, operator.router.bias)
                yield from parameters(operator.shared)
                for expert in operator.experts:
                    yield from parameters(expert.block)
            case SplitHeads() | Split() | Join() | Rope() | Attention() | SwiGlu() | Gelu() | Add():
                pass
            case _:
                assert_never(operator)


def inputs(operator: Operator) -> tuple[str, ...]:
    """Values that it reads."""
    match operator:
        case Attention():
            return operator.queries, operator.keys, operator.values
        case Add():
            return operator.stream, operator.branch
        case Join():
            return operator.inputs
        case _:
            return (operator.input,)


def caches(block: Block) -> Iterator[Cache]:
    """Of the block's attention."""
    yield from (operator.cache for operator in block.operators if isinstance(operator, Attention))


def _present(first: TensorParameter, second: TensorParameter | None) -> tuple[TensorParameter, ...]:
    return (first,) if second is None else (first, second)
