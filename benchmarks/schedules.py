"""Thousands of small catastrophes in virtual time: programs die, links are cut, messages overtake, and every answer must be right.

    python -m benchmarks.schedules --count 1000 --seed 1

Heads, stages, standbys, mirrors and the coordinator's streams are the real ones, over a network in memory on a clock that jumps; the
model is a toy whose rows are hashes of all that they were computed from (benchmarks/toy_model.py), and whoever repairs the ring is a
small coordinator that does what the real one's keeper does. A schedule is a function of its seed: one that ends wrong is printed with it,
and is the same again by `--seed N --count 1`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from benchmarks.faulty_network import FaultyNetwork, all_lanes
from benchmarks.small_fleet import Asked, Board, SmallCoordinator
from benchmarks.toy_model import VOCABULARY, answer_of
from device.agent.identity import Identity
from device.pipeline import mirror, reaching
from protos.decoding import DecodeMode
from protos.errors import FleetError
from protos.sampling import Sampling
from sim_devices.virtual_time import NothingLeft, run_virtual
from tests.support.members import TestFleet

MOST_STAGES = 3
FAULTS_WITHIN_SECONDS = 2.5
ANSWERED_WITHIN_SECONDS = 60.0  # after the last fault
FORGOTTEN_WITHIN_SECONDS = 10.0  # open sequences, once all is answered


class Violation(AssertionError):
    """What a client may rely on was not so."""


@dataclass(frozen=True)
class Members:
    """Made once: their keys are of no matter."""

    coordinator: Identity
    devices: tuple[Identity, ...]

    @classmethod
    def make(cls, folder: Path) -> Members:
        fleet = TestFleet.open(folder)
        return cls(fleet.member("coordinator", "coordinator"), tuple(fleet.member(f"d{number}") for number in range(MOST_STAGES + 1)))


@dataclass
class Told:
    """Of one schedule."""

    faults: list[str] = field(default_factory=list)
    attempts: int = 0
    answers: int = 0
    seconds: float = 0.0


async def schedule(seed: int, members: Members) -> Told:
    """Raises Violation."""
    chance = random.Random(seed)  # nosec B311 # a schedule, not a secret
    stages = chance.randint(1, MOST_STAGES)
    spares = chance.randint(0, 1)
    names = {identity.device_id: f"d{number}" for number, identity in enumerate(members.devices)}
    names[members.coordinator.device_id] = "coordinator"
    network, told = FaultyNetwork(names, chance), Told()
    clock = asyncio.get_running_loop().time
    async with AsyncExitStack() as stack:
        stack.enter_context(mock.patch.object(reaching, "dial", network.dial))
        for name in ("monotonic", "perf_counter"):  # what is measured is measured on the clock that jumps
            stack.enter_context(mock.patch.object(time, name, clock))
        stack.enter_context(mock.patch.object(mirror, "LOOK_SECONDS", chance.choice((0.02, 0.2))))
        boards = [Board(f"d{number}", members.devices[number], network, chance) for number in range(stages + spares)]
        for board in boards:
            await board.start()
            stack.push_async_callback(_stop, board)
        decode: DecodeMode = "pairs" if seed % 4 in (0, 3) else "rows"
        coordinator = SmallCoordinator(boards, stages, network, members.coordinator, decode)
        keeping = asyncio.create_task(coordinator.keep())
        stack.push_async_callback(_end, keeping)
        all_asked = [_asked(chance, number) for number in range(chance.randint(1, 8))]
        asking = [asyncio.create_task(coordinator.ask(asked)) for asked in all_asked]
        await asyncio.gather(*(_fault(chance, boards, network, told) for _ in range(chance.randint(1, 3))))
        try:
            async with asyncio.timeout(ANSWERED_WITHIN_SECONDS):
                await asyncio.gather(*asking)
        except TimeoutError:
            raise Violation(f"not answered in time: {[(len(one.got), one.tokens, one.attempts) for one in all_asked]}") from None
        for asked in all_asked:
            whole = answer_of(stages, asked.prompt, asked.tokens, asked.sampling, decode)
            if asked.got != whole[: len(asked.got)] or (asked.leaves_after is None and asked.got != whole):
                raise Violation(f"{asked.got} in place of {whole}, prompt of {len(asked.prompt)}, attempts {asked.attempts}")
        await _nothing_is_open(boards)
        told.attempts, told.answers, told.seconds = sum(one.attempts for one in all_asked), len(all_asked), clock()
    return told


def _asked(chance: random.Random, number: int) -> Asked:
    prompt = tuple(chance.randrange(VOCABULARY) for _ in range(chance.choice((1, 2, 7, 16, 17, 30))))
    tokens = chance.randint(3, 50)
    sampling = Sampling(temperature=1.0, seed=number) if chance.random() < 0.5 else Sampling()
    leaves = chance.randrange(1, tokens) if chance.random() < 0.15 else None
    return Asked(prompt, tokens, sampling, chance.random(), leaves, bytes([number]) if chance.random() < 0.9 else b"")


async def _fault(chance: random.Random, boards: Sequence[Board], network: FaultyNetwork, told: Told) -> None:
    await asyncio.sleep(chance.uniform(0.2, FAULTS_WITHIN_SECONDS))
    at, lasts = asyncio.get_running_loop().time(), chance.choice((0.05, 0.5, 1.0, 2.5, 5.0))
    kind, board = chance.choice(("kill", "cut", "one-way cut", "freeze")), chance.choice(boards)
    others = [other.name for other in boards if other is not board] + ["coordinator"]
    other = chance.choice(others)
    if kind == "kill":
        told.faults.append(f"{at:.2f} s: {board.name} dies, back after {lasts:g} s")
        if board.device is None:
            return
        await board.die()
        await asyncio.sleep(lasts)
        await board.start()
        return
    lanes = network.around(board.name) if kind == "freeze" else network.between(board.name, other, both=kind == "cut")
    told.faults.append(f"{at:.2f} s: {kind} {board.name}{'' if kind == 'freeze' else ' to ' + other} for {lasts:g} s")
    all_lanes(lanes, lambda lane: lane.cut())
    await asyncio.sleep(lasts)
    all_lanes(lanes, lambda lane: lane.heal())


async def _nothing_is_open(boards: Sequence[Board]) -> None:
    """Raises Violation."""
    until = asyncio.get_running_loop().time() + FORGOTTEN_WITHIN_SECONDS
    while open_ones := [
        f"{board.name} has {status.open_sequences} of stage {status.stage} open"
        for board in boards
        if board.device is not None
        for status in board.device.describe().stages
        if status.open_sequences
    ]:
        if asyncio.get_running_loop().time() > until:
            raise Violation("; ".join(open_ones))
        await asyncio.sleep(0.2)


async def _stop(board: Board) -> None:
    if board.device is not None:
        await board.die()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def run(seed: int, members: Members) -> Told:
    """Raises Violation, also for an error that nobody is to be told, and where everybody waits for ever."""
    try:
        return run_virtual(schedule(seed, members))
    except FleetError as error:
        raise Violation(f"{type(error).__name__}: {error}") from error
    except NothingLeft as error:
        raise Violation(str(error)) from error


@contextmanager
def made_members() -> Iterator[Members]:
    with tempfile.TemporaryDirectory() as folder:
        yield Members.make(Path(folder))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule; the next has the next")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    wrong, sums, began = 0, Counter[str](), time.monotonic()
    with made_members() as members:
        for seed in range(options.seed, options.seed + options.count):
            try:
                told = run(seed, members)
            except Violation as violation:
                wrong += 1
                print(f"seed {seed}: {violation}", flush=True)
                continue
            sums.update(answers=told.answers, attempts=told.attempts, faults=len(told.faults), seconds=round(told.seconds))
    took = time.monotonic() - began
    print(
        f"{options.count} schedules, {sums['faults']} faults, {sums['answers']} answers in {sums['attempts']} attempts, "
        f"{sums['seconds']:,} virtual seconds in {took:.0f}: {wrong} ended wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
