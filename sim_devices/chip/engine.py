"""A stage as programs on the functional machine: implements device.engine.engine, one row after the other.

Each row goes through by itself, by the program of the context that its position needs, so that its result depends on the rows before it in
its sequence alone, and not on who came with it, how a prompt was cut into chunks, or how many devices share the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device.engine.engine import Engine, Output, Rows, Runtime, Tokens
from device.engine.golden import check_head, check_stage
from device.engine.kv import SlotGroup, check_run
from device.engine.prepacked import Prepacked
from device.stage_programs import StagePrograms
from device.stage_spec import StageSpec
from protos.chip.core import Core
from protos.dialects import ISA_DIALECT
from protos.errors import InvalidInput
from protos.ids import Digest
from sim_devices.chip.checked import check_stage_program
from sim_devices.chip.functional import Machine
from sim_devices.chip.memory import Bytes, mapped


def isa_runtime(core: Core) -> Runtime:
    """Of a device with this core."""
    return Runtime(ISA_DIALECT, partial(open_programs, core))


def open_programs(core: Core, spec: StageSpec, blob_folder: Path, threads: int, saved: Prepacked | None) -> tuple[Engine, Output | None]:
    """In the place of device.engine.opening.open_stage. Every program is verified before any of them runs.

    Raises InvalidInput for graphs, and for programs of another artifact, stage or core; Corrupt for a program that is damaged or breaks a
    rule, and for a stage that fails its golden check.
    """
    programs = spec.programs
    if programs is None:
        raise InvalidInput("this device runs programs of a chip, and was given graphs", advice="deploy the model again")
    weights = _weights(programs, blob_folder)

    def machine(digest: Digest) -> Machine:
        is_head = digest == programs.head
        program = check_stage_program((blob_folder / digest).read_bytes(), digest, spec, core, weights, is_head=is_head)
        return Machine(program, core, weights)

    output = ProgramOutput(machine(programs.head), spec) if programs.head else None
    engine = ProgramEngine([machine(digest) for digest in programs.layers], spec)
    if output:
        check_head(spec, output)
    check_stage(spec, engine, blob_folder, threads)
    return engine, output


class ProgramEngine:
    """A stage's layers with their cache, which lies outside the machines: before a row its sequence's part is put into the machine of its
    context, and the row that the program adds is fetched from there."""

    def __init__(self, machines: Sequence[Machine], spec: StageSpec) -> None:
        """Raises InvalidInput unless some machine has the context of the stage."""
        self._machines = sorted(machines, key=lambda machine: machine.context)
        if self._machines[-1].context < spec.shape.context:
            raise InvalidInput(f"the stage's programs are for {self._machines[-1].context} positions, not {spec.shape.context}")
        self._shape = spec.shape
        self._takes_tokens = spec.is_head
        self.groups = [SlotGroup(spec.shape) for _ in range(spec.shape.groups)]

    def prefill(self, group: int, slot: int, start: int, rows: Rows | Tokens) -> Rows:
        lengths = self.groups[group].lengths
        if start != lengths[slot] or start + len(rows) > self._shape.context:
            raise InvalidInput(f"prefill of [{start}, {start + len(rows)}) into a slot that holds {lengths[slot]} of {self._shape.context}")
        hidden = [self._row(self.groups[group], slot, start + number, row) for number, row in enumerate(rows)]
        lengths[slot] = start + len(rows)
        return np.concatenate(hidden)

    def decode(self, group: int, slots: Sequence[int], positions: Sequence[int], rows: Rows | Tokens) -> Rows:
        lengths = self.groups[group].lengths
        for slot, position in zip(slots, positions, strict=True):
            if position != lengths[slot] or position >= self._shape.context:
                raise InvalidInput(f"decode at {position} in a slot that holds {lengths[slot]} of {self._shape.context}")
        pairs = zip(slots, positions, rows, strict=True)
        hidden = [self._row(self.groups[group], slot, position, row) for slot, position, row in pairs]
        for slot in slots:
            lengths[slot] += 1
        return np.concatenate(hidden)

    def extend(self, group: int, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int], rows: Rows | Tokens) -> Rows:
        """A program computes each row by itself, so a row is the same in any run."""
        own, first = self.groups[group], 0
        hidden = []
        for slot, start, count in zip(slots, starts, counts, strict=True):
            check_run(own, slot, start, count, self._shape.context)
            hidden += [self._row(own, slot, start + number, row) for number, row in enumerate(rows[first : first + count])]
            own.lengths[slot], own.drafted[slot] = start + 1, count - 1
            first += count
        return np.concatenate(hidden)

    def _row(self, group: SlotGroup, slot: int, position: int, row: npt.NDArray[np.generic]) -> Rows:
        """[1, hidden]; the cache gets its keys and values."""
        machine = next(machine for machine in self._machines if machine.context > position)
        for layer, keys, values in group.layers():
            for name, cache in (("keys", keys), ("values", values)):
                if (there := self._cache(machine, layer, name, cache)) is not None:
                    there[:, :position] = cache[slot, :, :position]
        if self._takes_tokens:
            numbers = np.atleast_1d(row).astype(np.int32)
            inputs = {"ids": numbers[:1], **({"positions": numbers[1:]} if len(numbers) > 1 else {})}
            machine.run([position], inputs)
        else:
            machine.run([position], {"hidden_in": row.astype(np.float32)})
        for layer, keys, values in group.layers():
            for name, cache in (("keys", keys), ("values", values)):
                if (there := self._cache(machine, layer, name, cache)) is not None:
                    cache[slot, :, position] = there[:, position]
        return machine.output("hidden_out", self._shape.hidden_size)

    def _cache(self, machine: Machine, layer: int, name: str, cache: npt.NDArray[np.generic]) -> npt.NDArray[np.generic] | None:
        """[kv_heads, context, head_dim] of a machine's DRAM; None of values that are the keys."""
        if name == "values" and self._shape.values_are_keys:
            return None
        region = machine.dram.region(f"cache.{layer}.{name}")
        return region.view(cache.dtype).reshape(self._shape.kv_heads, machine.context, self._shape.head_dim)


class ProgramOutput:
    """Final norm and output head."""

    def __init__(self, machine: Machine, spec: StageSpec) -> None:
        self._machine = machine
        self._shape = spec.shape

    def logits(self, hidden: Rows) -> Rows:
        found = []
        for row in hidden:
            self._machine.run([0], {"hidden_in": row.astype(np.float32)})
            found.append(self._machine.output("logits", self._shape.vocab_size))
        return np.concatenate(found)

    def normed(self, hidden: Rows) -> Rows:
        raise InvalidInput("the programs of a chip have no norm of their own")  # see Head.submit


def _weights(programs: StagePrograms, blob_folder: Path) -> dict[str, Bytes]:
    """By region. Raises Corrupt."""
    return {one.region: mapped(blob_folder / one.blob, one.offset, one.size_bytes) for one in programs.weights}
