"""From the generic chip to the co-designed one, a mechanism after another: what each changes in time, bandwidth, power and energy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from protos.chip.core import Core, Mechanism
from protos.chip.timing import Timing, time_program
from protos.ids import Digest
from protos.manifest import Blob, Manifest, ModelConfig, Part, Provenance, Quantization, Tensor, Variant
from quantize.artifact.part_specs import layout_name, part_specs
from quantize.compiler.compile import compile_stage
from quantize.compiler.ir import Shape
from quantize.compiler.lowering import Stage

# In which order they are added: each needs what comes before it, or is worth most then.
STEPS: tuple[tuple[str, Mechanism], ...] = (
    ("weights preloaded in the shadow", "shadow"),
    ("tiles stream without draining", "stream"),
    ("softmax fused into attention", "fused_softmax"),
    ("norm fused with quantization", "norm_quant"),
    ("rows gathered by the DMA", "gather"),
)
LAST: tuple[str, Mechanism] = ("one launch, prefetch across operations", "one_launch")


@dataclass(frozen=True)
class Rung:
    """A step of the ladder, and a run of the model with all mechanisms up to it. `sequences` tokens come of a run of decoding."""

    name: str
    timing: Timing
    tokens: int

    @property
    def joules(self) -> float:
        return sum(self.timing.joules.values())

    @property
    def watts(self) -> float:
        return self.joules / self.timing.seconds

    @property
    def joules_per_token(self) -> float:
        return self.joules / self.tokens

    def cost_per_million_tokens(self, per_hour: float) -> float:
        """Where the chip costs so much an hour."""
        return per_hour / 3600 * self.timing.seconds / self.tokens * 1e6


def ladder(manifest: Manifest, generic: Core, codesigned: Core, shape: Shape, *, four_bits: bool = True) -> Iterator[Rung]:
    """Of the whole model, decoding. At last layers of 4 bits in the place of 8.

    Mechanisms that the co-designed core lacks are left out. Raises as `compile_stage`.
    """

    def rung(name: str, core: Core, model: Manifest) -> Rung:
        stage = Stage(model, range(model.config.layers), True, True)
        program = compile_stage(model, stage.parts, core, shape).program
        return Rung(name, time_program(program, core), shape.tokens)

    core = generic
    yield rung("generic", core, manifest)
    for name, mechanism in (*STEPS, LAST):
        if (name, mechanism) == LAST and codesigned.launch_seconds != core.launch_seconds:
            core = replace(core, launch_seconds=codesigned.launch_seconds)
            yield rung("cheap launch", core, manifest)
        if mechanism in codesigned.mechanisms and mechanism not in core.mechanisms:
            core = replace(core, mechanisms=core.mechanisms | {mechanism})
            yield rung(name, core, manifest)
    quantization = manifest.quantization
    if four_bits and quantization.bits == 8 and quantization.block_size and manifest.config.experts is None:
        yield rung("layers of 4 bits", core, unmade(manifest.config, replace(quantization, bits=4)))


def unmade(config: ModelConfig, quantization: Quantization) -> Manifest:
    """Of an artifact whose files nobody has written: all that a compiler asks of one."""
    layout, nothing = layout_name(quantization), Digest("0" * 64)
    parts = []
    for spec in part_specs(config, quantization):
        tensors = tuple(Tensor(own.name, own.dtype, own.shape, 0, own.offset) for own in spec.own)
        parts.append(Part(spec.name, spec.cost, (Variant(layout, (Blob(nothing, spec.size_bytes),), tensors),)))
    return Manifest(config, quantization, Provenance("", "", ""), tuple(parts))


def plain(rung: Rung, per_hour: float | None = None) -> Mapping[str, float | str | None]:
    """The documented object of `sim explain --json`."""
    timing = rung.timing
    return {
        "step": rung.name,
        "seconds": timing.seconds,
        "bandwidth_share": timing.dram_utilisation,
        "array_share": timing.array_utilisation,
        "dram_bytes": timing.counts.dram_bytes,
        "watts": rung.watts,
        "joules_per_token": rung.joules_per_token,
        "cost_per_million_tokens": None if per_hour is None else rung.cost_per_million_tokens(per_hour),
    }
