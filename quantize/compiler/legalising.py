"""Second pass: what a core has as one instruction becomes one operation, what it lacks several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from protos.chip.core import Core
from quantize.compiler import ir
from quantize.compiler.ir import Step


def legalise(steps: Sequence[Step], core: Core) -> tuple[Step, ...]:
    """Attention as one operation or as scores and softmax; norm and quantization together where the core can."""
    return tuple(_attention(_norms(steps, core), core))


def _attention(steps: Sequence[Step], core: Core) -> Iterator[Step]:
    for step in steps:
        if not isinstance(step.operation, ir.Attend):
            yield step
        elif core.lacks("MATMUL_SOFTMAX"):
            yield Step(f"{step.name} scores", ir.Scores(step.operation))
            yield Step(f"{step.name} softmax", ir.Softmax(step.operation))
        else:
            yield Step(step.name, ir.FusedAttend(step.operation))


def _norms(steps: Sequence[Step], core: Core) -> tuple[Step, ...]:
    """A norm whose only reader is the quantization behind it."""
    if core.lacks("NORM_QUANT"):
        return tuple(steps)
    readers = Counter(buffer.name for step in steps for buffer in set(ir.buffers(step.operation)))
    fused: dict[str, ir.Normalize] = {}
    for step in steps:
        norm = step.operation
        if isinstance(norm, ir.Normalize) and norm.bias is None and norm.heads == 1 and readers[norm.to.buffer.name] == 2:
            fused[norm.to.buffer.name] = norm
    quantized = {step.operation.source.buffer.name for step in steps if isinstance(step.operation, ir.Quantize)}
    found = []
    for step in steps:
        operation = step.operation
        if isinstance(operation, ir.Normalize) and operation.to.buffer.name in fused.keys() & quantized:
            continue
        if isinstance(operation, ir.Quantize) and (of := fused.get(operation.source.buffer.name)):
            step = Step(step.name, ir.NormalizeQuantize(of.source, of.gain, of.epsilon, operation.to))
        found.append(step)
    return tuple(found)
