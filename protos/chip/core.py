"""What a chip's core is: its arrays, memories and speeds, and which mechanisms its instructions may use."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

Dataflow = Literal["weight-stationary", "output-stationary"]
# What the co-designed variants add, one after another; each changes which instructions a compiler writes.
Mechanism = Literal["shadow", "stream", "fused_softmax", "norm_quant", "one_launch", "gather"]
MECHANISMS: tuple[Mechanism, ...] = ("shadow", "stream", "fused_softmax", "norm_quant", "one_launch", "gather")

# Beyond these no chip is one, and a compiler would be busy for hours; by the names of chip profiles.
LARGEST = {"arrays": 1024, "array_rows": 1024, "array_columns": 1024, "scratchpad": 1 << 34, "accumulators": 1 << 30, "lanes": 1 << 20}


@dataclass(frozen=True)
class Core:
    """One accelerator's core; sizes in bytes, rates per second, energies in joules.

    `arrays` arrays of `rows` x `columns` multipliers work side by side: on `columns` outputs each, or on `rows` inputs each of the same
    outputs, whose sums are added. `float_cycles` is how often longer an array takes for a row of floats. `lanes` elements go through the
    vector unit in a cycle; each column of the arrays has a lane of its own for the sums that leave it. `reachable` is the share of
    `dram_bytes_per_second` that long transfers get, `burst_bytes` what the memory reads at least at a place, `dma_seconds` how long a
    transfer is under way before its first byte, of which `dma_channels` may be at once.

    shadow: weights are loaded into a second bank while the arrays compute with the first. stream: a tile's rows enter behind the last of
    the tile before, without waiting until that has drained. fused_softmax, norm_quant, gather: MATMUL_SOFTMAX, NORM_QUANT, GATHER_LOAD
    exist. one_launch: a program is launched once, and not each operator by its own, so that transfers run ahead across operators.
    """

    name: str
    dataflow: Dataflow
    arrays: int
    rows: int
    columns: int
    clock_hertz: float
    scratchpad_bytes: int
    accumulator_bytes: int
    lanes: int
    float_cycles: int
    dram_bytes: int
    dram_bytes_per_second: float
    reachable: float
    burst_bytes: int
    dma_channels: int
    dma_seconds: float
    launch_seconds: float
    idle_watts: float
    joules_per_mac: float
    joules_per_float_mac: float
    joules_per_sram_byte: float
    joules_per_dram_byte: float
    mechanisms: frozenset[Mechanism] = frozenset()

    @cached_property
    def digest(self) -> str:
        """Of all figures and mechanisms: a program runs on the very core that it was compiled for."""
        plain = {**asdict(self), "mechanisms": sorted(self.mechanisms)}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    @property
    def width(self) -> int:
        """Outputs that all arrays compute side by side."""
        return self.arrays * self.columns

    @property
    def banks(self) -> int:
        return 2 if "shadow" in self.mechanisms else 1

    @property
    def bytes_per_cycle(self) -> float:
        """Of DRAM, reachable."""
        return self.dram_bytes_per_second * self.reachable / self.clock_hertz

    @property
    def macs_per_second(self) -> float:
        return self.arrays * self.rows * self.columns * self.clock_hertz

    def holds(self, depth: int, width: int) -> bool:
        """Whether the arrays hold a tile of so many inputs and outputs at once."""
        return -(-depth // self.rows) * -(-width // self.columns) <= self.arrays

    def lacks(self, operation: str) -> bool:
        """Whether an operation of `instructions.CODESIGNED` does not exist here."""
        needed: dict[str, Mechanism] = {"MATMUL_SOFTMAX": "fused_softmax", "NORM_QUANT": "norm_quant", "GATHER_LOAD": "gather"}
        return operation in needed and needed[operation] not in self.mechanisms
