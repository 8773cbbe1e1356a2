"""Times of a stage's programs without compiling all of it: layers of a kind take the same, one after the other.

From the second layer on, each one more of a kind adds the same cycles and the same joules to a program, to the last of them
(tests/quantize/compiler/test_stage_times.py): so a stage is timed by the programs of two and of three layers, however long it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock

from protos.chip.core import Core
from protos.chip.timing import Timing, dynamic_joules, time_program
from protos.errors import InvalidInput, NoSpace
from protos.manifest import Manifest
from protos.physics.programs import JOULES, ROWS, SEQUENCES, SPENT, ProgramTime, Room, StageTimes, context_for, contexts_for
from quantize.architectures.registry import architecture_of
from quantize.compiler import ir
from quantize.compiler.compile import Compiled, unverified
from quantize.compiler.ir import Shape
from quantize.compiler.lowering import Stage
from quantize.parts import EMBEDDING, HEAD, layer_number, layer_parts

_KEPT = 1 << 14  # times of programs in memory, of some hundred bytes each
_COMPILING = Lock()  # the stages of a ring are loaded at once, and ask for the same programs: each is compiled once


@dataclass(frozen=True)
class Model:
    """A manifest, compared by its digest."""

    digest: str
    manifest: Manifest = field(compare=False, repr=False)

    @staticmethod
    def of(manifest: Manifest) -> Model:
        return Model(manifest.digest, manifest)


@dataclass(frozen=True)
class Sizes:
    """That programs are compiled for, ascending from 1."""

    sequences: tuple[int, ...] = SEQUENCES
    rows: tuple[int, ...] = ROWS


ALL = Sizes()
# Of a device that executes them: each row by itself, so that its result depends on no other.
SINGLE = Sizes((1,), (1,))


@dataclass(frozen=True)
class CompiledPrograms:
    """Implements physics.programs.Programs: the programs of some parts on a core, timed when they are asked for and kept by what they are
    made of."""

    model: Model
    parts: tuple[str, ...]
    core: Core
    kv_dtype: str
    sizes: Sizes = ALL

    def layers(self, wanted: Room) -> tuple[int, ProgramTime]:
        """Raises NoSpace where not even one row fits, InvalidInput for an operator without a lowering."""
        context = context_for(wanted.context, self.model.manifest.config.max_positions)
        by_rows = wanted.rows > 1
        size = wanted.rows if by_rows else wanted.sequences
        sizes = [one for one in (self.sizes.rows if by_rows else self.sizes.sequences) if one <= context or not by_rows]
        number = next((place for place, one in enumerate(sizes) if one >= size), len(sizes) - 1)
        while True:
            one = sizes[number]
            try:
                return -(-size // one), self.program(Room(1, one, context) if by_rows else Room(one, 1, context))
            except NoSpace:
                if number == 0:
                    raise
                number -= 1

    def head(self, rows: int) -> tuple[int, ProgramTime]:
        one = next((size for size in self.sizes.sequences if size >= rows), self.sizes.sequences[-1])
        return -(-rows // one), self.head_program(one)

    def program(self, room: Room) -> ProgramTime:
        """Of embedding and layers. Raises as `layers`, for this very room."""
        layers = sorted({number for part in self.parts if (number := layer_number(part)) is not None})
        embedding, shape = EMBEDDING in self.parts, Shape(room.sequences, room.rows, room.context, self.kv_dtype)
        return _program(room, _layers_time(self.model, self.core, tuple(layers), embedding, shape))

    def head_program(self, rows: int) -> ProgramTime:
        room = Room(rows, 1, 1)
        return _program(room, _timed(self.model, self.core, Pieces(head=True), Shape(rows, 1, 1, self.kv_dtype)))

    def listed(self, context: int, sequences: int, rows: int) -> StageTimes:
        """All that runs of up to so much may take: what a device is told. Raises as `layers`."""
        found = []
        for reached in contexts_for(context, self.model.manifest.config.max_positions):
            found.append(self.program(Room(1, 1, reached)))
            rooms = [Room(size, 1, reached) for size in _up_to(self.sizes.sequences, sequences)]
            rooms += [Room(1, size, reached) for size in _up_to(self.sizes.rows, rows) if size <= reached]
            found += [program for room in rooms if room != Room(1, 1, reached) and (program := self._fitting(room)) is not None]
        heads = [self.head_program(size) for size in _up_to(self.sizes.sequences, sequences)] if HEAD in self.parts else []
        return StageTimes(tuple(found), tuple(heads))

    def _fitting(self, room: Room) -> ProgramTime | None:
        try:
            return self.program(room)
        except NoSpace:
            return None


@dataclass(frozen=True)
class Pieces:
    """What a program is made of."""

    layers: tuple[int, ...] = ()
    embedding: bool = False
    head: bool = False

    def stage(self, manifest: Manifest) -> Stage:
        layers = range(self.layers[0], self.layers[-1] + 1) if self.layers else range(0)
        return Stage(manifest, layers, self.embedding, self.head)


@dataclass(frozen=True)
class _Spent:
    """Seconds by SPENT, without a program's first launch, and joules by JOULES."""

    seconds: tuple[float, ...] = (0.0,) * len(SPENT)
    joules: tuple[float, ...] = (0.0,) * len(JOULES)

    def plus(self, other: _Spent, times: int = 1) -> _Spent:
        return _Spent(_sum(self.seconds, other.seconds, times), _sum(self.joules, other.joules, times))


def program_of(model: Model, core: Core, pieces: Pieces, shape: Shape) -> tuple[Compiled, Timing]:
    """Raises as `unverified`."""
    compiled = unverified(model.manifest, pieces.stage(model.manifest).parts, core, shape)
    return compiled, time_program(compiled.program, core)


def alike(model: Model, layer: int) -> tuple[int, ...] | None:
    """Three layers in a row of the same kind as `layer`; None where the model has no such."""
    kinds = _kinds(model)
    same = (first for first in range(len(kinds) - 2) if set(kinds[first : first + 3]) == {kinds[layer]})
    first = next(same, None)
    return None if first is None else (first, first + 1, first + 2)


def _layers_time(model: Model, core: Core, layers: tuple[int, ...], embedding: bool, shape: Shape) -> _Spent:
    if not layers and not embedding:
        return _Spent()
    kinds = _kinds(model)
    further = {kind: [layer for layer in layers[2:] if kinds[layer] == kind] for kind in {kinds[layer] for layer in layers[2:]}}
    rows_of_three = {kind: alike(model, own[0]) for kind, own in further.items()}
    if None in rows_of_three.values():  # layers of many kinds by turns: as a whole
        return _timed(model, core, Pieces(layers, embedding), shape)
    first = tuple(layers[:2])
    if first and kinds[first[0]] == kinds[first[-1]] and (same := alike(model, first[0])):
        first = same[: len(first)]
    found = _timed(model, core, Pieces(first, embedding), shape)
    for kind, own in further.items():
        three = rows_of_three[kind] or ()
        more = _timed(model, core, Pieces(three), shape).plus(_timed(model, core, Pieces(three[:2]), shape), -1)
        found = found.plus(more, len(own))
    return found


def _program(room: Room, spent: _Spent) -> ProgramTime:
    return ProgramTime(room, spent.seconds, spent.joules)


def _timed(model: Model, core: Core, pieces: Pieces, shape: Shape) -> _Spent:
    with _COMPILING:
        found = _kept(model, core, pieces, shape)
    if isinstance(found, _Spent):
        return found
    raise type(found)(found.cause, advice=found.advice)


@lru_cache(maxsize=_KEPT)
def _kept(model: Model, core: Core, pieces: Pieces, shape: Shape) -> _Spent | NoSpace | InvalidInput:
    """What cannot be is kept, too."""
    try:
        compiled, timing = program_of(model, core, pieces, shape)
    except (NoSpace, InvalidInput) as error:
        return type(error)(error.cause, advice=error.advice)
    seconds = dict.fromkeys(SPENT, 0.0)
    launched = {one["operator"] for one in compiled.program.instructions if one.name == "BEGIN" and one.has("launch")}
    for number, (step, operator) in enumerate(zip(compiled.legalised, timing.operators, strict=True)):
        launch = core.launch_seconds if number in launched else 0.0
        seconds["launch"] += launch
        seconds["head" if pieces.head else spent_on(step.operation)] += operator.cycles / core.clock_hertz - launch
    seconds["launch"] -= core.launch_seconds  # the first is the run's
    return _Spent(tuple(seconds.values()), tuple(dynamic_joules(core, timing.counts)[name] for name in JOULES))


def spent_on(operation: ir.Operation) -> str:
    """The word of SPENT for an operation of the layers."""
    match operation:
        case ir.Product() | ir.FloatProduct() | ir.Experts():
            return "linear"
        case ir.Attend() | ir.Scores() | ir.Softmax() | ir.FusedAttend():
            return "attention"
        case ir.ReceivePlaces() | ir.Gather() | ir.AddPositions():
            return "embedding"
        case _:
            return "elementwise"


@lru_cache(maxsize=64)
def _kinds(model: Model) -> tuple[int, ...]:
    """Of each layer the first that is like it: the same operators on tensors of the same types and shapes."""
    manifest, config = model.manifest, model.manifest.config
    architecture = architecture_of(config)
    seen: list[tuple[int, object]] = []
    found = []
    for layer in range(config.layers):
        variants = [manifest.part(part).variants[0] for part in layer_parts(manifest, layer)]
        tensors = [[(one.name, one.dtype, one.shape) for one in variant.tensors] for variant in variants]
        own = (architecture.layer(config, layer), tensors)
        first = next((first for first, other in seen if other == own), layer)
        if first == layer:
            seen.append((layer, own))
        found.append(first)
    return tuple(found)


def _up_to(sizes: Sequence[int], most: int) -> list[int]:
    """And the first that is as large."""
    return [size for place, size in enumerate(sizes) if place == 0 or sizes[place - 1] < most]


def _sum(a: Iterable[float], b: Iterable[float], times: int) -> tuple[float, ...]:
    return tuple(x + times * y for x, y in zip(a, b, strict=True))
