"""The programs that a device executes which runs stages on a chip: one for each context, of one row, and one of the output head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from protos.chip.core import Core
from protos.chip.program import Program
from protos.errors import InvalidInput
from protos.manifest import Manifest
from protos.physics.programs import contexts_for
from quantize.compiler.compile import compile_stage
from quantize.compiler.ir import Shape
from quantize.compiler.stage_times import Model
from quantize.parts import HEAD


@dataclass(frozen=True)
class StagePrograms:
    """`layers` by ascending context; `head` is of the stage with the output head."""

    layers: tuple[Program, ...]
    head: Program | None

    @property
    def all(self) -> tuple[Program, ...]:
        return (*self.layers, *((self.head,) if self.head else ()))


# Of so many stages at once, each of which is compiled again if it is asked for later.
@lru_cache(maxsize=16)
def stage_programs(model: Model, parts: tuple[str, ...], core: Core, kv_dtype: str, context: int) -> StagePrograms:
    """For sequences of up to `context` positions, verified. Raises as `compile_stage`, and as `check_rows`."""
    manifest = model.manifest
    check_rows(manifest)
    body = tuple(part for part in parts if part != HEAD)
    layers = tuple(
        compile_stage(manifest, body, core, Shape(1, 1, reached, kv_dtype)).program
        for reached in contexts_for(context, manifest.config.max_positions)
    )
    head = compile_stage(manifest, (HEAD,), core, Shape(1, 1, 1, kv_dtype)).program if HEAD in parts else None
    return StagePrograms(layers, head)


def check_rows(manifest: Manifest) -> None:
    """Raises InvalidInput for a model whose rows cannot go through one by one."""
    if manifest.config.prefix_whole:
        raise InvalidInput(
            "a prefix that sees all of itself goes through at once, and programs of a chip take one row after the other",
            advice="deploy it on devices that run graphs",
        )
