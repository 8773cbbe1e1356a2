"""The command that compiles a stage for a chip, and shows the program, what it takes, and where its time goes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.cli.options import HomeOption, JsonOption, open_home
from fleet.cli.output import figure, note, print_json, say
from fleet.cli.tables import Column, print_table
from fleet.cli.timeline import chrome_trace, drawing
from protos.chip.instructions import UNITS
from protos.chip.program import Program
from protos.chip.timing import Timing, time_program
from protos.errors import InvalidInput
from protos.manifest import Manifest
from protos.sizes import bytes_text
from quantize.artifact.store import ArtifactStore
from quantize.compiler.compile import KV_DTYPES, PASSES, Compiled, Pass, compile_stage
from quantize.compiler.ir import Shape
from quantize.compiler.lowering import Stage
from sim_devices.chip.core_profiles import VARIANTS, CoreProfile, Variant, load_core

ProfileOption = Annotated[str, typer.Option("--profile", metavar="P", help="A chip, or your own TOML file (docs/isa.md).")]
RowsOption = Annotated[int, typer.Option("--rows", min=1, help="Tokens of each sequence that go through at once.")]
SequencesOption = Annotated[int, typer.Option("--sequences", min=1, help="Sequences at once, each with caches of its own.")]
PositionsOption = Annotated[int, typer.Option("--context", min=1, help="Positions of a cache.")]
CacheOption = Annotated[str, typer.Option("--kv", help=f"The cache's type: {', '.join(KV_DTYPES)}.")]
LayersOption = Annotated[
    str | None, typer.Option("--layers", metavar="A-B", help="Layers of a stage, the last included (default: all, and both ends).")
]


def compile_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of `glmfleet model list`.")],
    profile: ProfileOption,
    variant: Annotated[str, typer.Option("--variant", help="generic or codesigned: which instructions the chip has.")] = "generic",
    layers: LayersOption = None,
    rows: RowsOption = 1,
    sequences: SequencesOption = 1,
    context: PositionsOption = 1024,
    kv: CacheOption = "float32",
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the program.", show_default=False)] = None,
    disassemble: Annotated[bool, typer.Option("--disassemble", help="Print every instruction.")] = False,
    dump: Annotated[str | None, typer.Option("--dump", metavar="PASS", help=f"Print what a pass made: {', '.join(PASSES)}.")] = None,
    timeline: Annotated[
        Path | None,
        typer.Option("--timeline", metavar="FILE", help="Draw the queues: .svg, or .json for Perfetto.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Compile a model for a chip: program, cycles, utilisation, joules. Or a stage of it.

    Example: glmfleet compile smollm2-135m --profile edge-npu --variant codesigned --context 512
    """
    if dump is not None and dump not in PASSES:
        raise typer.BadParameter(f"--dump: no pass {dump!r}; there are {', '.join(PASSES)}")
    if timeline and timeline.suffix not in (".svg", ".json"):
        raise typer.BadParameter(f"--timeline writes SVG or JSON: name the file {timeline.with_suffix('.svg')}")
    chip = load_core(profile)
    core = chip.core(parse_variant(variant))
    manifest = ArtifactStore(open_home(home).artifacts).load(model)
    stage = Stage(manifest, *parse_layers(layers, manifest))
    compiled = compile_stage(manifest, stage.parts, core, Shape(sequences, rows, context, kv))
    timing = time_program(compiled.program, core)
    if output:
        _write(output, "--output", compiled.program.to_bytes())
    if timeline:
        text = drawing(timing, f"{model} on {core.name}") if timeline.suffix == ".svg" else chrome_trace(timing)
        _write(timeline, "--timeline", text.encode())
    if as_json:
        print_json(plain_result(compiled, timing))
    elif dump or disassemble:
        chosen: Pass = next(name for name in PASSES if name == (dump or "schedule"))
        print(compiled.dump(chosen), flush=True)  # noqa: T201 (lines that a terminal must not break)
    else:
        _print(compiled, timing, chip)


def parse_variant(text: str) -> Variant:
    """Raises typer.BadParameter."""
    for variant in VARIANTS:
        if text == variant:
            return variant
    raise typer.BadParameter(f"--variant: {text!r} is none of {', '.join(VARIANTS)}")


def parse_layers(text: str | None, manifest: Manifest) -> tuple[range, bool, bool]:
    """(layers, whether the embedding is there, whether the head is) of "0-13", the last included. Raises InvalidInput."""
    count = manifest.config.layers
    if text is None:
        return range(count), True, True
    first, dash, last = text.partition("-")
    numbers = (first, last if dash else first)
    if not all(number.isdecimal() and len(number) < 6 for number in numbers) or not int(numbers[0]) <= int(numbers[1]) < count:
        raise InvalidInput(f"--layers {text[:20]!r} names no layers of this model", advice=f"it has 0-{count - 1}; write for example 0-3")
    layers = range(int(numbers[0]), int(numbers[1]) + 1)
    return layers, layers.start == 0, False


def plain_result(compiled: Compiled, timing: Timing) -> dict[str, Any]:
    """The documented object of `compile --json`."""
    program = compiled.program
    return {
        "core": timing.core.name,
        "artifact": program.target.artifact,
        "parts": list(program.target.parts),
        "sequences": program.target.sequences,
        "rows": program.target.rows,
        "context": program.target.context,
        "kv": program.target.kv_dtype,
        "program_bytes": len(program.to_bytes()),
        "instructions": mix(program),
        "executed": timing.counts.instructions,
        "scratchpad_bytes": program.scratchpad_bytes,
        "accumulator_bytes": program.accumulator_bytes,
        "dram_bytes": program.dram_bytes,
        "cycles": timing.cycles,
        "seconds": timing.seconds,
        "array_utilisation": timing.array_utilisation,
        "dram_utilisation": timing.dram_utilisation,
        "dram_moved_bytes": timing.counts.dram_bytes,
        "macs": timing.counts.macs,
        "float_macs": timing.counts.float_macs,
        "joules": dict(timing.joules),
        "busy_cycles": dict(timing.busy),
        "stall_cycles": {unit: dict(causes) for unit, causes in timing.stalls.items()},
    }


def mix(program: Program) -> dict[str, int]:
    """Instructions of the program by operation, the most frequent first."""
    return dict(Counter(instruction.name for instruction in program.instructions).most_common())


def _print(compiled: Compiled, timing: Timing, chip: CoreProfile) -> None:
    program, joules = compiled.program, timing.joules
    target = program.target
    say(f"{timing.core.name}: {chip.description}")
    say(
        f"{figure(1e3 * timing.seconds)} ms, {figure(timing.cycles)} cycles: {target.sequences} x {target.rows} rows, "
        f"context {target.context}, {target.kv_dtype} cache"
    )
    say(
        f"DRAM {bytes_text(timing.counts.dram_bytes)}, {100 * timing.dram_utilisation:.1f} % of peak bandwidth; "
        f"arrays {100 * timing.array_utilisation:.2f} % of peak"
    )
    shares = ", ".join(f"{name} {figure(1e3 * value)}" for name, value in joules.items())
    say(f"{figure(1e3 * sum(joules.values()))} mJ: {shares}")
    say(
        f"program {bytes_text(len(program.to_bytes()))}, {len(program.instructions):,} instructions, "
        f"{timing.counts.instructions:,} executed by units; scratchpad {bytes_text(program.scratchpad_bytes)} of "
        f"{bytes_text(timing.core.scratchpad_bytes)}"
    )
    say("instructions: " + ", ".join(f"{name} {count:,}" for name, count in mix(program).items()))
    columns = [Column("unit"), Column("busy", "figure"), Column("stands still for")]
    rows = [[unit, f"{100 * timing.busy[unit] / timing.cycles:.1f} %", _causes(timing, unit)] for unit in UNITS]
    print_table(columns, rows)
    note(f"figures that are estimates: {len(chip.estimated)} of {len(chip.figures)}")


def _causes(timing: Timing, unit: Any) -> str:
    found = sorted(timing.stalls[unit].items(), key=lambda pair: -pair[1])
    return ", ".join(f"{cause} {100 * cycles / timing.cycles:.1f} %" for cause, cycles in found if cycles >= 0.001 * timing.cycles) or "-"


def _write(path: Path, option: str, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise typer.BadParameter(f"{option}: cannot write {path}: {error.strerror}") from error
    note(f"written: {path}")
