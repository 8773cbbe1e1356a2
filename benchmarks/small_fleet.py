"""A small fleet for schedules: boards that die and start again, and a coordinator that holds their ring together."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from benchmarks.faulty_network import FaultyNetwork
from benchmarks.toy_model import HIDDEN, TOY, VOCABULARY, ToyHardware
from device.agent.device import Device
from device.agent.identity import Identity
from device.agent.telemetry import ProcessReading
from fleet.deploying.stream import BROKEN_RING, PipelineStream, TokenStream
from fleet.devices.client import DeviceClient
from protos.decoding import DecodeMode
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
from tests.support.members import credentials_of

MODEL, PIPELINE = "0" * 64, "toy-1"
CONTEXT, SLOTS, CHUNK = 96, 4, 8
LOOK_SECONDS = 0.25
ASKED_SECONDS = 1.0  # a device that does not describe itself in time is away
AWAY_SECONDS = 1.75


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
            runtime=TOY,
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

    def __init__(self, boards: Sequence[Board], stages: int, network: FaultyNetwork, identity: Identity, decode: DecodeMode) -> None:
        self.boards = boards
        self.ring = list(boards[:stages])
        self.epoch = 1
        self._decode = decode
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
                decode=self._decode,
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
