"""First pass: the blocks of a stage as operations on buffers. An interpreter of `quantize.layers.operators`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from protos.errors import InvalidInput
from protos.manifest import Manifest
from quantize.architectures.registry import architecture_of
from quantize.artifact.schemes import scheme_of
from quantize.compiler import ir
from quantize.compiler.ir import Buffer, Matrix, Quantized, Shape, Step, Stored, View
from quantize.layers.operators import (
    INPUT,
    Add,
    Attention,
    Block,
    Embed,
    Gelu,
    Join,
    LearnedPositions,
    Linear,
    Mixture,
    Norm,
    Operator,
    Rope,
    Split,
    SplitHeads,
    SwiGlu,
    TensorParameter,
    inputs,
)
from quantize.layers.positions import columns_of
from quantize.parts import EMBEDDING, HEAD, POSITIONS, find_part, layer_number, layer_part, stage_parts

# Logits of so many outputs are made and sent at a time.
_HEAD_OUTPUTS = 8192


@dataclass(frozen=True)
class Stage:
    """What a program is made of: which layers, and whether embedding and output head are there too."""

    manifest: Manifest
    layers: range
    embedding: bool
    head: bool

    @property
    def parts(self) -> tuple[str, ...]:
        found = stage_parts(self.manifest, self.layers.start, self.layers.stop) if self.layers else ()
        return (*((EMBEDDING,) if self.embedding else ()), *found, *((HEAD,) if self.head else ()))


def stage_of(manifest: Manifest, parts: Sequence[str]) -> Stage:
    """Raises InvalidInput unless the parts are some of: the embedding, consecutive whole layers, the head."""
    for part in parts:
        find_part(manifest, part)
    numbers = sorted({number for part in parts if (number := layer_number(part)) is not None})
    layers = range(numbers[0], numbers[-1] + 1) if numbers else range(0)
    stage = Stage(manifest, layers, EMBEDDING in parts, HEAD in parts)
    if not parts or sorted(stage.parts) != sorted(parts):
        listed = ", ".join(parts)[:120] or "no parts"
        raise InvalidInput(f"no stage: {listed}", advice="a stage is the embedding, consecutive whole layers, the head, or several")
    return stage


def lower(stage: Stage, shape: Shape) -> tuple[Step, ...]:
    """Raises InvalidInput, naming it, for an operator that has no lowering."""
    manifest, architecture = stage.manifest, architecture_of(stage.manifest.config)
    config = manifest.config
    lowering = _Lowering(manifest, shape)
    if stage.embedding:
        for name, columns in _places(architecture.embedding(config)):
            lowering.add(name, ir.ReceivePlaces(name, Buffer(name, shape.tokens, columns, "int32")))
        stream = lowering.block(EMBEDDING, architecture.embedding(config), {})
    else:
        stream = lowering.buffer("hidden_in", config.hidden_size)
        lowering.add("hidden_in", ir.Receive(stream))
    for layer in stage.layers:
        stream = lowering.block(layer_part(layer), architecture.layer(config, layer), {INPUT: stream}, layer)
    if stage.head:
        last = lowering.buffer("head.rows", config.hidden_size, rows=shape.sequences)
        lowering.add("head.rows", ir.LastRows(stream, last))
        lowering.head(architecture.head(config), last)
    else:
        lowering.add("hidden_out", ir.Send(stream, "hidden_out", 0, config.hidden_size))
    return tuple(lowering.steps)


class _Lowering:
    def __init__(self, manifest: Manifest, shape: Shape) -> None:
        self.steps: list[Step] = []
        self._manifest = manifest
        self._shape = shape
        self._quantized: dict[tuple[str, str], Quantized] = {}

    def buffer(self, name: str, width: int, kind: ir.ElementType = "float32", rows: int | None = None) -> View:
        return View(Buffer(name, self._shape.tokens if rows is None else rows, width, kind), 0, width)

    def add(self, name: str, operation: ir.Operation) -> None:
        self.steps.append(Step(name, operation))

    def block(self, place: str, block: Block, given: Mapping[str, View], layer: int = 0) -> View:
        """The block's output."""
        values = dict(given)
        for operator in block.operators:
            self._operator(place, operator, values, block, layer)
        return values[block.output]

    def head(self, block: Block, rows: View) -> None:
        """Logits, some outputs at a time."""
        *before, last = block.operators
        values = {INPUT: rows}
        for operator in before:
            self._operator(HEAD, operator, values, block, 0)
        if not isinstance(last, Linear):
            raise _no_lowering("an output head that does not end in a product")
        outputs = last.weight.shape[0]
        for first in range(0, outputs, _HEAD_OUTPUTS):
            width = min(_HEAD_OUTPUTS, outputs - first)
            to = self.buffer(f"head.logits.{first}", width, rows=rows.buffer.rows)
            self._product(HEAD, last, values[last.input], first, to)
            self.add(f"head.logits.{first}", ir.Send(to, "logits", first, outputs))

    def _operator(self, place: str, operator: Operator, values: dict[str, View], block: Block, layer: int) -> None:
        def made(name: str, width: int) -> View:
            values[name] = self.buffer(f"{place}.{name}", width, rows=None if place != HEAD else self._shape.sequences)
            return values[name]

        match operator:
            case Embed():
                table = self._matrix(place, operator.table)
                self.add(
                    f"{place} {operator.output}",
                    ir.Gather(Buffer("ids", self._shape.tokens, 1, "int32"), table, made(operator.output, table.columns)),
                )
            case LearnedPositions():
                placed = made(operator.output, values[operator.input].width)
                self.add(f"{place} {operator.output}", ir.Copy(values[operator.input], placed))
                positions = Buffer("positions", self._shape.tokens, len(operator.tables), "int32")
                for column, rows in enumerate(operator.tables):
                    self.add(f"{place} {rows.name}", ir.AddPositions(positions, column, self._floats(place, rows), placed))
            case Norm():
                source = values[operator.input]
                gain, bias = self._stored(place, operator.gain), self._stored(place, operator.bias) if operator.bias else None
                to = made(operator.output, source.width)
                self.add(f"{place} {operator.output}", ir.Normalize(source, gain, bias, operator.epsilon, operator.heads or 1, to))
            case Linear():
                self._product(place, operator, values[operator.input], 0, made(operator.output, operator.weight.shape[0]))
            case SplitHeads():
                widths = [count * operator.head_dim for count in (operator.heads, operator.kv_heads, operator.kv_heads)]
                _cut(values, operator.input, (operator.queries, operator.keys, operator.values), widths)
            case Split():
                _cut(values, operator.input, operator.outputs, operator.widths)
            case Join():
                parts = [values[name] for name in operator.inputs]
                joined, start = made(operator.output, sum(part.width for part in parts)), 0
                for part in parts:
                    self.add(f"{place} {operator.output}", ir.Copy(part, View(joined.buffer, start, part.width)))
                    start += part.width
            case Rope():
                self._turn(place, operator, values[operator.input], block, made(operator.output, values[operator.input].width))
            case Attention():
                self._attend(place, operator, values, layer, made(operator.output, operator.heads * operator.head_dim))
            case SwiGlu():
                self.add(f"{place} {operator.output}", ir.SwiGlu(values[operator.input], made(operator.output, operator.width)))
            case Gelu():
                self.add(f"{place} {operator.output}", ir.Gelu(values[operator.input], made(operator.output, operator.width)))
            case Add():
                stream, branch = values[operator.stream], values[operator.branch]
                self.add(f"{place} {operator.output}", ir.Add(stream, branch, made(operator.output, stream.width)))
            case Mixture():
                self._mixture(place, operator, values, layer)
            case _:
                assert_never(operator)

    def _product(self, place: str, linear: Linear, source: View, first: int, to: View) -> None:
        matrix = self._matrix(place, linear.weight)
        bias = self._stored(place, linear.bias) if linear.bias else None
        name = f"{place} {linear.output}{f'.{first}' if first else ''}"
        if matrix.scales is None:
            self.add(name, ir.FloatProduct(source, matrix, first, bias, to))
        else:
            self.add(name, ir.Product(self._quantize(place, source, matrix.block), matrix, first, bias, to))

    def _quantize(self, place: str, source: View, block: int) -> Quantized:
        """Once for all products that read it."""
        key = (str(source), str(block))
        if key not in self._quantized:
            self._quantized[key] = quantized = quantized_like(str(source), source.buffer.rows, source.width, block)
            self.add(f"{place} {source}.q", ir.Quantize(source, quantized))
        return self._quantized[key]

    def _turn(self, place: str, rope: Rope, source: View, block: Block, to: View) -> None:
        reader = next(each for each in block.operators if isinstance(each, Attention) and rope.output in inputs(each))
        heads = reader.kv_heads if rope.output == reader.keys else reader.heads
        columns, positions = columns_of(rope.rotary.dim), self._manifest.config.max_positions
        cos, sin = (Stored(f"{POSITIONS}/{name}", 4 * positions * columns) for name in ("cos", "sin"))
        self.add(f"{place} {rope.output}", ir.Turn(source, heads, rope.rotary, cos, sin, columns, to))

    def _attend(self, place: str, attention: Attention, values: Mapping[str, View], layer: int, to: View) -> None:
        shape, item = self._shape, 1 if self._shape.kv_dtype == "int8" else 2 if self._shape.kv_dtype == "float16" else 4
        shared = attention.values_are_keys
        packed = Buffer(f"{place}.attention.queries", shape.tokens * attention.heads, attention.head_dim)
        rows = shape.tokens * attention.kv_heads * (1 if shared else 2)
        # One for all layers: what the cache is given is stored while the next operations run.
        own = Buffer(f"attention.own.{rows}x{attention.head_dim}", rows, attention.head_dim * item, "int8")
        scales = (attention.cache.key_scale, attention.cache.value_scale)
        stored = [self._stored(place, scale) if shape.kv_dtype == "int8" else None for scale in scales]
        attend = ir.Attend(
            values[attention.queries],
            values[attention.keys],
            None if shared else values[attention.values],
            layer,
            attention.heads,
            attention.kv_heads,
            attention.head_dim,
            attention.causal,
            attention.head_dim**-0.5 if attention.scale is None else attention.scale,
            stored[0],
            stored[0] if shared else stored[1],
            packed,
            own,
            to,
        )
        self.add(f"{place} {attention.output}", attend)

    def _mixture(self, place: str, mixture: Mixture, values: dict[str, View], layer: int) -> None:
        """The shared expert's result is what the chosen ones are added to."""
        router, rows = mixture.router, values[mixture.input]
        tokens, count, chosen = rows.buffer.rows, mixture.router.count, mixture.router.per_token
        shared = self.block(place, mixture.shared, {mixture.shared.input: rows}, layer)
        part = f"{place}.{router.matrix.part}.router"
        matrix = self._floats(place, router.matrix)
        logits = self.buffer(f"{part}.logits", count)
        self.add(f"{part} logits", ir.FloatProduct(rows, matrix, 0, None, logits))
        places, weights = Buffer(f"{part}.chosen", tokens, chosen, "int32"), Buffer(f"{part}.weights", tokens, chosen)
        scratch = Buffer(f"{part}.scratch", tokens, 3 * count + 4 * router.groups + 2 * router.groups_per_token + 2)
        self.add(f"{part} choice", ir.Route(logits, self._stored(place, router.bias), router, scratch, places, weights))
        products = [_swiglu_of(expert.block) for expert in mixture.experts]
        members = tuple((self._matrix(place, gate_up.weight), self._matrix(place, down.weight)) for gate_up, down in products)
        gate_up, down = members[0]
        if gate_up.scales is None:
            raise _no_lowering("a mixture of experts of float32 weights")
        quantized = quantized_like(f"{part}.expert.product", 1, down.columns, down.block)
        self.add(
            f"{place} experts",
            ir.Experts(
                self._quantize(place, rows, gate_up.block),
                places,
                weights,
                members,
                Buffer(f"{part}.expert.gates", 1, gate_up.rows),
                Buffer(f"{part}.expert.product", 1, down.columns),
                quantized,
                Buffer(f"{part}.expert.result", 1, down.rows),
                shared,
            ),
        )
        values[mixture.output] = shared

    def _stored(self, place: str, parameter: TensorParameter) -> Stored:
        return Stored(f"{self._part(place, parameter)}/{parameter.name}", 4 * math.prod(parameter.shape))

    def _part(self, place: str, parameter: TensorParameter) -> str:
        return f"{place}.{parameter.part}" if parameter.part else place

    def _floats(self, place: str, parameter: TensorParameter) -> Matrix:
        rows, columns = parameter.shape
        return Matrix(self._stored(place, parameter), None, None, rows, columns, 32, 1)

    def _matrix(self, place: str, parameter: TensorParameter) -> Matrix:
        part = self._part(place, parameter)
        scheme = scheme_of(self._manifest.quantization, part)
        rows, columns = parameter.shape
        if not (parameter.by_blocks and scheme.block_size):
            return self._floats(place, parameter)
        if scheme.bits == 8 and not scheme.symmetric:
            raise _no_lowering("8-bit weights with zero points, whose differences are no int8")
        sizes = {name: math.prod(shape) * (1 if dtype == "uint8" else 4) for name, (dtype, shape) in scheme.shapes(rows, columns).items()}
        stem = parameter.name.removesuffix("weight")
        levels, scales, *zeros = (Stored(f"{part}/{stem}{name}", size) for name, size in sizes.items())
        return Matrix(levels, scales, zeros[0] if zeros else None, rows, columns, scheme.bits, scheme.block_size)


def _places(embedding: Block) -> Iterator[tuple[str, int]]:
    """What the host gives: (region, numbers for each token)."""
    for operator in embedding.operators:
        match operator:
            case Embed():
                yield "ids", 1
            case LearnedPositions():
                yield "positions", len(operator.tables)
            case _:
                pass


def quantized_like(name: str, rows: int, width: int, block: int) -> Quantized:
    blocks = -(-width // block)
    return Quantized(Buffer(f"{name}.q", rows, blocks * block, "int8"), Buffer(f"{name}.s", rows, blocks), block)


def _cut(values: dict[str, View], source: str, names: Sequence[str], widths: Sequence[int]) -> None:
    whole, start = values[source], 0
    for name, width in zip(names, widths, strict=True):
        if name:
            values[name] = View(whole.buffer, whole.start + start, width)
        start += width


def _swiglu_of(block: Block) -> tuple[Linear, Linear]:
    match block.operators:
        case (Linear() as gate_up, SwiGlu(), Linear() as down) if not (gate_up.bias or down.bias):
            return gate_up, down
    raise _no_lowering("an expert that is no SwiGLU block")


def _no_lowering(what: str) -> InvalidInput:
    return InvalidInput(f"{what} cannot be compiled", advice="docs/isa.md says what can")


def dump(steps: Iterable[Step]) -> str:
    return "\n".join(map(ir.shown, steps))
