"""Passes in their order: a stage, a core and a shape make a program, which is verified before anybody gets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from protos.chip.assembly import disassemble
from protos.chip.core import Core
from protos.chip.program import Program, Region, Target
from protos.chip.verifier import verify
from protos.errors import InvalidInput
from protos.manifest import Manifest
from quantize.compiler import allocation, lowering, tiling
from quantize.compiler.ir import Shape, Step
from quantize.compiler.layout import addresses, regions_of
from quantize.compiler.legalising import legalise
from quantize.compiler.scheduling import schedule

Pass = Literal["lower", "legalise", "layout", "tile", "allocate", "schedule"]
PASSES: tuple[Pass, ...] = get_args(Pass)
KV_DTYPES = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Compiled:
    """A program, and what each pass made on the way to it."""

    program: Program
    lowered: tuple[Step, ...]
    legalised: tuple[Step, ...]
    tiles: tiling.Tiles
    lifetimes: tuple[allocation.Lifetime, ...]
    allocated: allocation.Allocation

    def dump(self, name: Pass) -> str:
        """What a pass made, as text."""
        match name:
            case "lower":
                return lowering.dump(self.lowered)
            case "legalise":
                return lowering.dump(self.legalised)
            case "layout":
                return "\n".join(map(_region_line, self.program.regions))
            case "tile":
                return tiling.dump(self.tiles, self.legalised)
            case "allocate":
                return allocation.dump(self.lifetimes, self.allocated)
            case "schedule":
                return "\n".join(disassemble(self.program.instructions))


def compile_stage(manifest: Manifest, parts: Sequence[str], core: Core, shape: Shape) -> Compiled:
    """The same arguments give the same bytes.

    Raises InvalidInput for parts that are no stage, a shape that the model does not have, an operator without a lowering; NoSpace where
    a tile, or what lives at once, does not fit the core; Corrupt for a program that breaks a rule.
    """
    compiled = unverified(manifest, parts, core, shape)
    verify(compiled.program, core)
    return compiled


def unverified(manifest: Manifest, parts: Sequence[str], core: Core, shape: Shape) -> Compiled:
    """As `compile_stage`, in a hundredth of the time: of a program that is timed and given to nobody."""
    _check(manifest, shape)
    lowered = lowering.lower(lowering.stage_of(manifest, parts), shape)
    legalised = legalise(lowered, core)
    kept = allocation.allocate(allocation.lifetimes(legalised)).size_bytes
    tiles = _tiles(legalised, core, shape, kept)
    lifetimes = allocation.lifetimes(legalised, tiles.workspaces)
    allocated = allocation.allocate(lifetimes)
    regions = regions_of(legalised, shape)
    instructions = schedule(legalised, tiles, allocated, addresses(regions), core, shape)
    target = Target(core.name, core.digest, manifest.digest, tuple(parts), shape.sequences, shape.rows, shape.context, shape.kv_dtype)
    scratchpad_bytes = allocated.size_bytes + tiles.ring_bytes
    names = tuple(step.name for step in legalised)
    program = Program(target, regions, names, scratchpad_bytes, tiles.accumulator_bytes, instructions)
    return Compiled(program, lowered, legalised, tiles, lifetimes, allocated)


def _tiles(steps: Sequence[Step], core: Core, shape: Shape, kept_bytes: int) -> tiling.Tiles:
    """Workspaces of the steps are known with their tiles, and tiles by the room that workspaces leave: until both fit."""
    reserved = kept_bytes
    for _ in range(8):
        tiles = tiling.tile(steps, core, shape, reserved)
        needed = allocation.allocate(allocation.lifetimes(steps, tiles.workspaces)).size_bytes
        if needed + tiles.ring_bytes <= core.scratchpad_bytes:
            return tiles
        reserved = max(needed, reserved + (core.scratchpad_bytes - reserved) // 8)
    raise tiling.no_space(core, shape, "a step")


def _check(manifest: Manifest, shape: Shape) -> None:
    most = manifest.config.max_positions
    if not 0 < shape.context <= most:
        raise InvalidInput(f"a context of {shape.context} positions is not within the model's {most}", advice="choose --context within it")
    if not 0 < shape.rows <= shape.context:
        raise InvalidInput(f"{shape.rows} rows do not go into {shape.context} positions", advice="choose fewer rows or a larger context")
    if not 0 < shape.sequences <= 1024:
        raise InvalidInput(f"{shape.sequences} sequences are not within 1 and 1024")
    if shape.kv_dtype not in KV_DTYPES:
        raise InvalidInput(f"a cache of {shape.kv_dtype!r} is not known", advice=f"choose one of {', '.join(KV_DTYPES)}")


def _region_line(region: Region) -> str:
    return f"{region.address:#012x} {region.size_bytes:>14,}  {region.purpose:8} {region.name}"
