"""Small cores to compile for, and the golden checkpoints as programs on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from protos.chip.core import MECHANISMS, Core
from protos.chip.instructions import Instruction
from protos.chip.program import Program, Target
from protos.manifest import Manifest, ModelConfig, Quantization
from quantize.compiler import ladder

GENERIC = Core(
    name="small",
    dataflow="weight-stationary",
    arrays=4,
    rows=32,
    columns=32,
    clock_hertz=1e9,
    scratchpad_bytes=1 << 20,
    accumulator_bytes=1 << 18,
    lanes=128,
    float_cycles=4,
    dram_bytes=1 << 34,
    dram_bytes_per_second=1e11,
    reachable=0.92,
    burst_bytes=32,
    dma_channels=4,
    dma_seconds=1e-7,
    launch_seconds=2e-6,
    idle_watts=1.0,
    joules_per_mac=2e-13,
    joules_per_float_mac=2e-12,
    joules_per_sram_byte=1e-12,
    joules_per_dram_byte=5e-11,
)
CODESIGNED = replace(GENERIC, mechanisms=frozenset(MECHANISMS))


def unmade(config: ModelConfig, bits: int = 8, block_size: int = 128, *, symmetric: bool = True) -> Manifest:
    """Of an artifact whose files nobody has written."""
    return ladder.unmade(config, Quantization(bits, block_size, symmetric))


def bare(instructions: Sequence[Instruction], core: Core = GENERIC) -> Program:
    """A program of these alone, for what needs no artifact."""
    target = Target(core.name, core.digest, "", (), 1, 1, 64, "float32")
    return Program(target, (), ("all",), core.scratchpad_bytes, core.accumulator_bytes, tuple(instructions))
