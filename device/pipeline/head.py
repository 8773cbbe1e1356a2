"""The head of a ring: it owns every sequence's tokens, launches steps, samples, and tells the clients."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable
from functools import partial
from types import TracebackType

import numpy as np

from device.engine.engine import Output, Rows, Tokens
from device.pipeline.clients import TOGETHER_SECONDS, Client, Track, parse_submit, send_read, send_tokens
from device.pipeline.guides import Guide, Guides
from device.pipeline.inbound import Inbound
from device.pipeline.kept import KeptRows
from device.pipeline.link import Link
from device.pipeline.microbatch import check_returned, microbatch, placed_tokens
from device.pipeline.rounds import Round, Rounds
from device.pipeline.scheduler import Scheduler
from device.pipeline.sequences import SampledToken, Step
from device.pipeline.stage import Extra, Stage
from device.pipeline.wire import decode, encode
from protos.dtypes import row_bytes
from protos.errors import Conflict, FleetError, InvalidInput, Unavailable
from protos.even import even_up
from protos.ids import DeviceId
from protos.net.transport import Credentials
from protos.route import Hop
from protos.rpc_errors import as_fleet_error
from protos.v1 import pipeline_pb2 as pb

# How much longer the news of a broken ring may take forward, with its route, than backward.
ROUTE_SECONDS = 0.2

# Where the whole model is on this device, decode rounds follow each other for so long before their tokens are sent: see Client.take.
BURST_SECONDS = TOGETHER_SECONDS

_log = logging.getLogger(__name__)


class Head:
    """Runs one pipeline's decode loop on this device. An async context manager."""

    def __init__(self, stage: Stage, output: Output, credentials: Credentials | None) -> None:
        self.stage = stage
        self._output = output
        self._credentials = credentials
        self._scheduler = self._new_scheduler()
        self._tracks: dict[int, Track] = {}  # by the sequence's number on the ring
        self._in_flight: dict[int, tuple[Step, float]] = {}  # with when it began
        self._steps = 0
        self._group_ready = [0.0] * stage.spec.shape.groups  # modelled time at which a group's last step was back
        self._wake = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._watch: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._guides = Guides(stage.spec.shape.vocab_size)
        self._broken: FleetError | None = None
        self._kept: tuple[KeptRows, ...] = ()  # by all stages, of the ring before

    async def __aenter__(self) -> Head:
        self._pump = asyncio.create_task(self._run(), name=f"head of {self.stage.spec.pipeline}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._pump
        self._wake.set()  # ends a burst, which the computing thread would go on with
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        self._guides.close()
        await self._fail(Unavailable(f"pipeline {self.stage.spec.pipeline} was unloaded"))

    @property
    def open_sequences(self) -> int:
        return len(self._tracks)

    def is_busy(self) -> bool:
        return bool(self._tracks)

    async def connect(self) -> None:
        """Build the ring unless it stands. Raises what keeps it from standing."""
        async with self._connecting:
            spec = self.stage.spec
            if self._link is not None or (spec.next is None and self.stage.ring_id):
                return
            self._kept = kept = await self.stage.join_ring(uuid.uuid4().hex)
            if spec.next is None:
                self._scheduler.keep(kept)
                return
            link = Link(spec, spec.next, self.stage.ring_id, self._credentials, self.stage.device, self.stage.doubts, kept, self.is_busy)
            try:
                await link.__aenter__()
            except BaseException:
                self.stage.leave_ring()  # whoever asked may not ask again: what is kept is freed in time
                raise
            self.stage.aim(spec.next.led_by(link.address))
            self.stage.clock.catch_up(link.modelled_clock)
            if self.stage.is_unloaded:
                await link.__aexit__(None, None, None)
                await self.stage.unloaded()
            self._broken = None
            self._scheduler.keep(self._kept)
            self._link = link
            self._watch = asyncio.create_task(self._watch_link(link), name="ring watch")

    def submit(self, client: Client, message: pb.Submit) -> None:
        """Queue a request; refusals are told to the client as its end."""
        try:
            if message.sequence in client.sequences:
                raise Conflict(f"sequence {message.sequence} is open already")
            request = parse_submit(message, self.stage.spec.shape)
            if request.told.embedding and not self.stage.spec.norm_graph:
                why = "the final norm is not loaded apart here, as by a coordinator of the release before, or on a chip that runs programs"
                raise InvalidInput(f"{why}: deploy the model anew, or elsewhere")
            guide = self._guides.guide(request.rules.grammar) if request.rules.grammar else None
            sequence = self._scheduler.submit(request)
        except FleetError as error:
            client.refuse(message.sequence, error)
            return
        client.sequences[message.sequence] = sequence
        self._tracks[sequence.number] = Track(
            client, message.sequence, sequence, time.perf_counter(), self.stage.clock.free_at, self.stage.spec.shape.decode == "pairs"
        )
        if guide is not None:
            sequence.guide = guide
            guide.when_ready(partial(asyncio.get_running_loop().call_soon_threadsafe, self._guided, client, message.sequence, guide))
        self._wake.set()

    def learn(self, part: pb.Vocabulary) -> None:
        """Of the model's vocabulary, for grammars. Raises InvalidInput."""
        self._guides.learn(part)

    def _guided(self, client: Client, number: int, guide: Guide) -> None:
        """Its grammar was compiled, or cannot be."""
        try:
            guide.check()
        except FleetError as error:
            if (sequence := client.sequences.get(number)) is not None and sequence.guide is guide:
                sequence.error = error
                self.cancel(client, number)
        self._wake.set()

    def cancel(self, client: Client, number: int, *, keep: bool = False) -> None:
        """Unknown numbers are passed over: the end may have crossed the cancel. `keep` what is computed for whoever asks the same again."""
        if sequence := client.sequences.get(number):
            sequence.abandoned = keep
            self._scheduler.cancel(sequence)
            if sequence.ending:
                self._tracks[sequence.number].note(time.perf_counter(), None)
            self._finish_unseen()
            self._wake.set()

    def abandon(self, client: Client) -> None:
        """It has left. Its requests end, and what is computed of them is kept for whoever asks the same again."""
        for number in list(client.sequences):
            self.cancel(client, number, keep=True)

    def pause(self, client: Client, number: int, paused: bool) -> None:
        if sequence := client.sequences.get(number):
            sequence.paused = paused
            self._wake.set()

    async def take_returns(self, ring_id: str, last: DeviceId, inbound: Inbound, kept: Iterable[KeptRows]) -> None:
        """Serve the stream to us of the last stage, on device `last`; `kept`: what all stages keep of the ring before.

        Raises Conflict for a ring that is not ours.
        """
        if ring_id != self.stage.ring_id:
            raise Conflict("this ring is not the head's")
        own = {one.key: one for one in self._kept}
        here = ((one, own.get(one.key)) for one in kept)
        self._kept = tuple(one for one, mine in here if mine and one.place == mine.place and one.rows <= mine.rows)
        await inbound.accept(self.stage.clock.free_at)
        try:
            await inbound.serve(self._take(inbound, ring_id))
        except FleetError as error:
            self._break(ring_id, error)
            raise
        finally:
            # The stream to the next stage ends too, and tells the route; it comes a little later.
            ended = Unavailable("it ended its stream to the head").at(Hop(last, self.stage.spec.stages - 1))
            asyncio.get_running_loop().call_later(ROUTE_SECONDS, self._break, ring_id, ended)

    async def _take(self, inbound: Inbound, ring_id: str) -> None:
        async for message in inbound:
            await self._returned(message, ring_id)

    async def _run(self) -> None:
        """An eternal task: what ends it is a defect."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if self._broken:
                    raise self._broken
                if self._scheduler.open_sequences:
                    await self.connect()
                while step := self._scheduler.next_step():
                    await self._launch(step)
            except FleetError as error:
                await self._fail(error)
            except Exception as error:
                _log.exception("a defect in the head's loop")
                await self._fail(as_fleet_error(error))

    async def _launch(self, step: Step) -> None:
        (message, tokens), tracks = self._made(step), [self._tracks[sequence.number] for sequence in step.sequences]
        for track in tracks:
            track.start(time.perf_counter())
        if message.HasField("modelled_at"):
            message.modelled_at = max([message.modelled_at, *(track.modelled_arrival for track in tracks)])
        if self._link is None:
            await self._launch_alone(step, message, tokens)
            return
        started = time.perf_counter()
        hidden = await self.stage.step(message, tokens)
        self._measure(step, started)
        await self._send(step, message, hidden, started)

    async def _send(self, step: Step, message: pb.Microbatch, hidden: Rows | None, began: float) -> None:
        assert self._link
        if hidden is not None:
            message.hidden = encode(hidden, self.stage.spec.shape.wire_dtype)
        self._steps += 1
        message.step = self._steps
        self._in_flight[message.step] = step, began
        sent = await self._link.send(message)  # two tasks send: the sum is taken afterwards
        self.stage.counters.sent_bytes += sent

    async def _launch_alone(self, step: Step, message: pb.Microbatch, tokens: Tokens) -> None:
        """The whole model is here: the step's round ends with its run, and decode rounds follow each other in the computing thread for
        BURST_SECONDS, or until there is news: handing a small model's every token to the event loop and back takes a tenth of its time."""
        self._wake.clear()  # from here on it tells of news
        started = time.perf_counter()

        def enough() -> bool:
            return self._wake.is_set() or time.perf_counter() - started > BURST_SECONDS

        def sample(hidden: Rows) -> None:
            if step.counts:
                rounds.sample(hidden)
                return
            if not step.prefill:
                hidden = hidden[[step.sequences.index(sequence) for sequence in step.wanted]]
            rounds.sample(hidden[len(hidden) - step.returned_rows :])

        rounds = Rounds(step, message, self._output, self._made, most=self._scheduler.rounds(step), enough=enough)
        extra = Extra(step.head_rows, sample) if step.returned_rows else None
        await self.stage.step(message, tokens, extra, rounds.following)
        self._measure(step, started)
        for each in rounds.done:
            self._measure_runs(each.step, started, each.ended_at)
            started = each.ended_at
            self._round_done(each)

    def _made(self, step: Step) -> tuple[pb.Microbatch, Tokens]:
        """The step's microbatch, and what enters its layers."""
        message = microbatch(step)
        if self.stage.hardware.info.simulated:
            message.modelled_at = self._group_ready[step.group]
        return message, placed_tokens(step) if self.stage.spec.shape.learned_positions else np.array(step.tokens, np.int64)

    def _measure(self, step: Step, started: float) -> None:
        """Stages are cut to take about the same time, so the head's own says how long a chunk holds up the ring."""
        if step.prefill:
            self._scheduler.chunks = self._scheduler.chunks.measured(len(step.tokens), time.perf_counter() - started)

    def _measure_runs(self, step: Step, began: float, ended: float) -> None:
        """With the hops round the ring: they are a part of what a step costs however many rows it has."""
        if step.counts:
            self._scheduler.steps = self._scheduler.steps.measured(sum(map(even_up, step.counts)), ended - began)

    async def _returned(self, message: pb.Microbatch, ring_id: str) -> None:
        """End a step's round. Where nothing else is to be decided, its next begins in the same turn: one of its own is half a hop
        more for each token."""
        step, began = self._in_flight.pop(message.step, (None, 0.0))
        if step is None:
            raise Conflict(f"step {message.step} came back, which is not in flight")
        shape = self.stage.spec.shape
        check_returned(message, step, row_bytes(shape.hidden_size, shape.wire_dtype))
        if not step.returned_rows:
            self._round_done(Round(step, message, ended_at=time.perf_counter()))
            return
        received = decode(message.hidden, step.returned_rows, shape.hidden_size, shape.wire_dtype)
        link = self._link
        assert link
        # While another group's rows are on their way out, what comes back is still read, and its tokens are sent.
        most, enough = min(2, self._scheduler.rounds(step)), lambda: link.busy
        rounds = Rounds(step, message, self._output, self._made, most=most, enough=enough)
        hidden = await self.stage.extra(message, step.head_rows, lambda: rounds.sample(received), rounds.following)  # nosec B610 # no database
        if self.stage.ring_id != ring_id:
            raise Conflict("the ring was given up while its step was computed")
        first = rounds.done[0]
        self._measure_runs(step, began, first.ended_at)
        sampled = self._completed(first)
        try:
            for after in rounds.done[1:]:
                self._scheduler.launched(after.step)
                await self._send(
                    after.step, after.message, hidden, first.ended_at
                )  # before any token is sent: the other stages wait for it
        finally:
            if self.stage.ring_id == ring_id:  # else all are told that it broke
                self._finish_round(first, sampled)

    def _round_done(self, done: Round) -> None:
        self._finish_round(done, self._completed(done))

    def _completed(self, done: Round) -> list[SampledToken]:
        if done.message.HasField("modelled_at"):
            self._group_ready[done.step.group] = done.message.modelled_at
        return self._scheduler.complete(done.step, done.sampled)

    def _finish_round(self, done: Round, sampled: list[SampledToken]) -> None:
        modelled = done.message.modelled_at if done.message.HasField("modelled_at") else None
        for sequence in done.step.sequences:
            self._tracks[sequence.number].note(done.ended_at, modelled)
        if done.step.read_whole:
            send_read(done.step, done.prompt_logprobs, self._tracks[done.step.sequences[0].number])
        send_tokens(sampled, self._tracks, done.logprobs)
        for released in done.message.released:
            self._tracks.pop(released.sequence).finish(released.usage)
        self._finish_unseen()
        self._wake.set()

    def _finish_unseen(self) -> None:
        for sequence in self._scheduler.take_unseen():
            self._tracks.pop(sequence.number).finish(())

    def _new_scheduler(self) -> Scheduler:
        shape = self.stage.spec.shape
        return Scheduler(shape.groups, shape.slots_per_group, shape.context, shape.prefill_chunk, shape.decode)

    async def _watch_link(self, link: Link) -> None:
        ring_id = self.stage.ring_id
        try:
            await link.ended()
        except FleetError as error:
            self._break(ring_id, error)

    def _break(self, ring_id: str, error: FleetError) -> None:
        if self._broken is None and ring_id == self.stage.ring_id:
            self._broken = error
            self._wake.set()

    async def _fail(self, error: FleetError) -> None:
        """Tell every open sequence, and forget the ring: the next request builds another."""
        if self._tracks or not isinstance(error, Unavailable):
            _log.warning("pipeline %s: %s", self.stage.spec.pipeline, error.detail)
        tracks, self._tracks = self._tracks, {}
        # At once: a client that left while the link is closed would cancel its old sequence in the new scheduler.
        for track in tracks.values():
            track.client.sequences.pop(track.client_number, None)
            track.client.refuse(track.client_number, error)
        self._in_flight.clear()
        self._scheduler = self._new_scheduler()
        self.stage.leave_ring()
        self.stage.ring_id = ""
        if self._watch:
            self._watch.cancel()
        if self._link:
            await self._link.__aexit__(None, None, None)
        self._link = self._watch = self._broken = None
