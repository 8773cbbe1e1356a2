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
from benchmarks.toy_model import HIDDEN, VOCABULARY, ToyHardware, answer_of, open_toy
from device.agent.device import Device
from device.agent.identity import Identity
from device.agent.telemetry import ProcessReading
from device.pipeline import mirror, reaching
from fleet.deploying.stream import BROKEN_RING, PipelineStream, TokenStream
from fleet.devices.client import DeviceClient
from protos.errors import FleetError, TemporaryError, Unavailable
from protos.ids import PipelineId
from protos.net.transport import Credentials
from protos.rpc_errors import from_failure
from protos.sampling import Sampling, to_message
from protos.silence import ASKERS_BEAT_SECONDS, milliseconds
from protos.v1 import device_pb2
from protos.v1 import pipeline_pb2 as pb
from protos.versions import SPOKEN
from sim_devices.hollow.blobs import HollowBlobs
from sim_devices.virtual_time import NothingLeft, run_virtual
from tests.support.members import TestFleet, credentials_of

MODEL, PIPELINE = "0" * 64, "toy-1"
CONTEXT, SLOTS, CHUNK = 96, 4, 8
MOST_STAGES = 3
FAULTS_WITHIN_SECONDS = 2.5
ANSWERED_WITHIN_SECONDS = 60.0  # after the last fault
FORGOTTEN_WITHIN_SECONDS = 10.0  # open sequences, once all is answered
LOOK_SECONDS = 0.25
ASKED_SECONDS = 1.0  # a device that does not describe itself in time is away
AWAY_SECONDS = 1.75


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


class Board:
    """A device that dies and starts again at the same address."""

    def __init__(self, name: str, identity: Identity, network: FaultyNetwork, chance: random.Random) -> None:
        self.name = name
        self.identity = identity
        self.address = ""
        self.device: Device | None = None
        self._network = network
        self._chance = chance
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        hardware = ToyHardware(lambda: self._chance.choice((0.001, 0.003, 0.01)))
        clock = asyncio.get_running_loop().time
        credentials = credentials_of(self.identity)
        device = Device(
            self.identity.device_id,
            self.name,
            hardware,
            HollowBlobs(),
            credentials,
            labels={},
            opener=open_toy,
            boot_id=self.name,
            process=lambda: ProcessReading(1, 0.0),
            clock=clock,
        )
        await self._stack.enter_async_context(device)
        bind = self.address or "127.0.0.1:0"
        server, port = await self._network.serve(bind, self.identity.device_id, credentials, device.register)
        self._stack.push_async_callback(server.stop, None)
        self.address = f"127.0.0.1:{port}"
        self._network.know(self.name, credentials, self.address)
        self.device = device

    async def die(self) -> None:
        self._network.die(self.name)
        self.device = None
        await self._stack.aclose()
        self._network.die(self.name)

    def hop(self) -> device_pb2.Hop:
        return device_pb2.Hop(device_id=self.identity.device_id, address=self.address)


@dataclass
class Asked:
    """A request, and what its reader has got of it."""

    prompt: tuple[int, ...]
    tokens: int
    sampling: Sampling
    at: float
    leaves_after: int | None  # tokens
    key: bytes
    got: list[int] = field(default_factory=list)
    attempts: int = 0
    stream: TokenStream | None = None


class SmallCoordinator:
    """Holds the ring together: repairs, takes over, mirrors; and asks again what broke."""

    def __init__(self, boards: Sequence[Board], stages: int, network: FaultyNetwork, identity: Identity) -> None:
        self.boards = boards
        self.ring = list(boards[:stages])
        self.epoch = 1
        self._network = network
        self._credentials: Credentials = credentials_of(identity)
        network.know("coordinator", self._credentials)
        self._clients = {board.name: self._client(board) for board in boards}
        self._answered = dict.fromkeys(self._clients, 0.0)
        self._held: dict[str, list[device_pb2.StageStatus]] = {}
        self._mirrored: set[str] = set()  # "standby epoch" of which the ring knows
        self._stream: PipelineStream | None = None
        self._running: asyncio.Task[None] | None = None
        self._clock = asyncio.get_running_loop().time

    async def keep(self) -> None:
        """For ever."""
        try:
            while True:
                await asyncio.gather(*(self._look(board) for board in self.boards))
                with contextlib.suppress(FleetError, TimeoutError):  # the next look says what is to be done
                    await self._mend()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await self._detach()

    async def ask(self, asked: Asked) -> None:
        await asyncio.sleep(asked.at)
        while len(asked.got) < asked.tokens:
            asked.attempts += 1
            try:
                await self._attempt(asked)
                if asked.leaves_after is not None and len(asked.got) >= asked.leaves_after:
                    return
            except (TemporaryError, *BROKEN_RING):
                await asyncio.sleep(0.1)

    async def _attempt(self, asked: Asked) -> None:
        stream = self._stream
        if stream is None:
            raise Unavailable("no ring yet")
        message = pb.Submit(
            prompt_ids=asked.prompt,
            forced_ids=asked.got,
            sampling=to_message(asked.sampling),
            max_tokens=asked.tokens,
            key=asked.key,
        )
        tokens = stream.submit(message)
        while (came := await tokens.take()) is not None:
            asked.got.extend(token.id for token in came)
            if asked.leaves_after is not None and len(asked.got) >= asked.leaves_after:
                tokens.cancel()
        assert tokens.finished is not None
        if tokens.finished.reason == pb.FINISH_REASON_ERROR:
            raise from_failure(tokens.finished.failure)

    def _client(self, board: Board) -> DeviceClient:
        return DeviceClient(self._network.dial(board.address, board.identity.device_id, self._credentials), board.name)

    async def _look(self, board: Board) -> None:
        try:
            async with asyncio.timeout(ASKED_SECONDS):
                described = await self._clients[board.name].describe()
        except (FleetError, TimeoutError):
            self._held.pop(board.name, None)
            return
        self._answered[board.name] = self._clock()
        self._held[board.name] = list(described.stages)

    def _away(self, board: Board) -> bool:
        return self._clock() - self._answered[board.name] > AWAY_SECONDS

    def _holds(self, board: Board, stage: int, *, standby: bool) -> bool:
        epochs = {self.epoch} if not standby else set(range(1, self.epoch + 1))
        return any(one.stage == stage and one.standby == standby and one.epoch in epochs for one in self._held.get(board.name, ()))

    async def _mend(self) -> None:
        spare = next((board for board in self.boards if board not in self.ring), None)
        for number, board in enumerate(self.ring):
            if self._away(board) and spare is not None and self._holds(spare, number, standby=True):
                self.ring[number], self.epoch = spare, self.epoch + 1
                await self._detach()
                break
        lacking = [number for number, board in enumerate(self.ring) if not self._holds(board, number, standby=False)]
        here = [number for number in lacking if self.ring[number].name in self._held]
        for number in here:
            await self._load(self.ring[number], number)
            await self._look(self.ring[number])
        if here and self._stream is not None:
            self._stream.restart()
        if not lacking:
            self._attach()
        spare = next((board for board in self.boards if board not in self.ring), None)
        if spare is not None and any(not one.standby for one in self._held.get(spare.name, ())):  # it was left, and lived
            await self._clients[spare.name].unload_stage(device_pb2.Generation(deployment="toy", number=self.epoch), PipelineId(PIPELINE))
            await self._look(spare)
        if spare is not None and spare.name in self._held and not lacking:
            for number in range(len(self.ring)):
                if not self._holds(spare, number, standby=True):
                    await self._load(spare, number, standby=True)
                    self._mirrored.clear()
            if (told := f"{spare.name} {self.epoch}") not in self._mirrored:
                for number, board in enumerate(self.ring):
                    await self._load(board, number)
                self._mirrored.add(told)

    async def _load(self, board: Board, number: int, *, standby: bool = False) -> None:
        spare = next((one for one in self.boards if one not in self.ring), None)
        count = len(self.ring)
        request = device_pb2.LoadStageRequest(
            generation=device_pb2.Generation(deployment="toy", number=self.epoch),
            pipeline_id=PIPELINE,
            manifest_digest=MODEL,
            epoch=self.epoch,
            stage=number,
            stages=count,
            parts=["layer"],
            shape=device_pb2.StageShape(
                hidden_size=HIDDEN,
                vocab_size=VOCABULARY,
                first_layer=number,
                stop_layer=number + 1,
                kv_heads=1,
                head_dim=1,
                context=CONTEXT,
                groups=count,
                slots_per_group=SLOTS,
                prefill_chunk=CHUNK,
                row_multiple=1,
                kv_dtype="float32",
                wire_dtype="float32",
            ),
            graph=b"toy",
            head_graph=b"toy" if number == 0 else b"",
            next=self.ring[(number + 1) % count].hop() if count > 1 else None,
            previous=self.ring[(number - 1) % count].hop() if count > 1 else None,
            standby=standby,
        )
        if standby:
            request.mirror_from.CopyFrom(self.ring[number].hop())
        elif spare is not None:
            request.mirror_to.CopyFrom(spare.hop())
        await asyncio.wait_for(self._clients[board.name].load_stage(request), 2.0)

    def _attach(self) -> None:
        if self._stream is None:
            opening = pb.Attach(
                protocol_version=SPOKEN.newest,
                oldest_protocol_version=SPOKEN.oldest,
                pipeline_id=PIPELINE,
                manifest_digest=MODEL,
                epoch=self.epoch,
                beat_milliseconds=milliseconds(ASKERS_BEAT_SECONDS),
            )
            head = self._clients[self.ring[0].name]
            self._stream = PipelineStream(opening, lambda: head, lambda: None)
            self._running = asyncio.create_task(self._stream.run())
        elif self._stream.broken_at is not None:
            self._stream.wake()

    async def _detach(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._stream is not None:
            self._stream.close()
        self._stream = self._running = None


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
        coordinator = SmallCoordinator(boards, stages, network, members.coordinator)
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
            whole = answer_of(stages, asked.prompt, asked.tokens, asked.sampling)
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
