"""What the semaphores of compiled programs say: who signals each, who waits, and what a wait for it is a wait for.

Each has one unit that signals and one that waits. Those that say that room is free are signalled for each slot before anything runs, and
waited for at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protos.chip.instructions import Unit

LOADED, FREE, READY, BANK, SUMS, ROOM, OPERAND = range(1, 8)
PARAMETER, PARAMETER_FREE, OUT, STORED, CACHE_READ, OWN, WRITTEN, CHOSEN = range(8, 16)


@dataclass(frozen=True)
class Semaphore:
    signalled_by: Unit
    waited_for_by: Unit
    meaning: str  # a unit that stands still waits for this


SEMAPHORES: Mapping[int, Semaphore] = {
    LOADED: Semaphore("load", "weights", "weights or cache from DRAM"),
    FREE: Semaphore("vector", "load", "a free slot in the scratchpad"),
    READY: Semaphore("weights", "array", "weights in the arrays"),
    BANK: Semaphore("array", "weights", "a free bank of the arrays"),
    SUMS: Semaphore("array", "vector", "sums of the arrays"),
    ROOM: Semaphore("vector", "array", "room in the accumulators"),
    OPERAND: Semaphore("vector", "array", "activations"),
    PARAMETER: Semaphore("load", "vector", "parameters from DRAM"),
    PARAMETER_FREE: Semaphore("vector", "load", "a free slot for parameters"),
    OUT: Semaphore("vector", "store", "results"),
    STORED: Semaphore("store", "vector", "a store to end"),
    CACHE_READ: Semaphore("load", "store", "the cache to be read"),
    OWN: Semaphore("vector", "weights", "this run's keys and values"),
    WRITTEN: Semaphore("store", "load", "scores in DRAM"),
    CHOSEN: Semaphore("vector", "sequencer", "a number to fetch"),
}
