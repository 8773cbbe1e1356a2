"""Blocks as readers and writers of the residual stream: what a rotation of it must be folded into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantize.layers.operators import Add, Block, Linear, Mixture, Norm, inputs


@dataclass(frozen=True)
class Folding:
    """Matrices of a layer, by their names in it.

    `readers`: those that multiply the normed stream, with the norm whose gain they take over; `writers`: those whose product is added to
    it. The value rows of "qkv.weight", and the columns of an "o.weight" beside it, turn by heads too.
    """

    readers: Mapping[str, str]
    writers: frozenset[str]


def folding_of(block: Block) -> Folding | None:
    """None for a layer that computes something else on a rotated stream: it takes means (layer norm), or adds what is no matrix's product
    alone. Behind a norm's gain per channel a rotated branch is no rotation of what it was; a bias would have to turn too."""
    walk = _Walk({block.input})
    walk.follow(block)
    return None if walk.refused else Folding(walk.readers, frozenset(walk.writers))


class _Walk:
    def __init__(self, stream: set[str]) -> None:
        self.readers: dict[str, str] = {}
        self.writers: set[str] = set()
        self.refused = False
        self._stream = stream
        self._norms: dict[str, str] = {}  # of the stream: by its value, the gain
        self._products: dict[str, tuple[Linear, ...]] = {}  # by a branch's value, the matrices whose products it sums

    def follow(self, block: Block) -> None:
        for operator in block.operators:
            match operator:
                case Norm() if operator.input in self._stream:
                    self.refused |= operator.bias is not None
                    self._norms[operator.output] = operator.gain.path
                case Linear():
                    self._reads(operator.input, operator.weight.path)
                    self._products[operator.output] = (operator,)
                case Mixture():
                    self._mixture(operator)
                case Add():
                    branch = self._products.get(operator.branch, ())
                    self.refused |= not branch or any(linear.bias for linear in branch)
                    self.writers |= {linear.weight.path for linear in branch}
                    self._stream.add(operator.output)
                case _:
                    self.refused |= any(name in self._stream for name in inputs(operator))

    def _reads(self, value: str, matrix: str) -> None:
        self.refused |= value in self._stream
        if value in self._norms:
            self.readers[matrix] = self._norms[value]

    def _mixture(self, mixture: Mixture) -> None:
        self._reads(mixture.input, mixture.router.matrix.path)
        products: list[Linear] = []
        for block in (mixture.shared, *(expert.block for expert in mixture.experts)):
            if mixture.input in self._norms:
                self._norms[block.input] = self._norms[mixture.input]
            self.follow(block)
            products += self._products.get(block.output, ())
        self._products[mixture.output] = tuple(products)
