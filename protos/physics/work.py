"""What a run moves and computes, by class of operator."""

from __future__ import annotations

from dataclasses import dataclass

from protos.physics.timing import Decode, Prefill, StageRun


@dataclass(frozen=True)
class OperatorLoad:
    """Of the operators of one class in one run: bytes moved, and multiply-accumulates."""

    bytes: int = 0
    macs: int = 0


@dataclass(frozen=True)
class Work:
    """What one run moves and computes. Bytes are read from DRAM, but for `elementwise` and `link_bytes`."""

    linear: OperatorLoad = OperatorLoad()  # the layers' matrices, read once a run
    attention: OperatorLoad = OperatorLoad()  # over the KV cache, read and written
    elementwise: OperatorLoad = OperatorLoad()  # activations between operators, on the chip
    head: OperatorLoad = OperatorLoad()  # final norm and output head
    embedding: OperatorLoad = OperatorLoad()  # gathered rows
    operators: int = 0
    link_bytes: int = 0  # hidden rows sent on; their time is the link's

    @property
    def dram_bytes(self) -> int:
        return self.linear.bytes + self.attention.bytes + self.head.bytes + self.embedding.bytes

    @property
    def macs(self) -> int:
        return self.linear.macs + self.attention.macs + self.elementwise.macs + self.head.macs + self.embedding.macs


def work_of(run: StageRun) -> Work:
    """The work of a run, whatever accelerator it is for.

    Weights are read once, however many rows. A prefill reads the cache before it once, and writes and reads its own rows; each row of a
    decode reads all of its sequence's cache, and writes and reads its own row.
    """
    cost, rows, head_rows = run.cost, _rows(run.body), run.head_rows
    cached, seen = _attended(run.body)
    return Work(
        linear=OperatorLoad(cost.read_bytes, rows * cost.macs_per_row) if run.body else OperatorLoad(),
        attention=OperatorLoad(cached * cost.kv_bytes_per_token, seen * cost.attention_macs_per_position),
        elementwise=OperatorLoad(rows * cost.activation_bytes_per_row + head_rows * cost.head_activation_bytes_per_row),
        head=OperatorLoad(cost.head_read_bytes, head_rows * cost.head_macs_per_row) if head_rows else OperatorLoad(),
        embedding=OperatorLoad(rows * cost.embedding_bytes_per_row),
        operators=(cost.operators if run.body else 0) + (cost.head_operators if head_rows else 0),
        link_bytes=run.link_bytes,
    )


def _rows(body: Prefill | Decode | None) -> int:
    match body:
        case Prefill(_, rows):
            return rows
        case Decode(positions):
            return len(positions)
        case None:
            return 0


def _attended(body: Prefill | Decode | None) -> tuple[int, int]:
    """Rows of the cache that are read or written, and positions attended to, summed over the run's rows."""
    match body:
        case Prefill(start, rows):
            return start + 2 * rows, rows * start + rows * (rows + 1) // 2
        case Decode(positions):
            seen = sum(positions) + len(positions)
            return seen + len(positions), seen
        case None:
            return 0, 0
