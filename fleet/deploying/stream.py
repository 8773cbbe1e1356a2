"""The one Generate stream to a pipeline's head: attached, kept up, its events routed to the sequences they are for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import grpc
import grpc.aio

from fleet.background import end, set_within
from fleet.devices.client import DeviceClient
from fleet.devices.liveness import Liveness
from protos.errors import Conflict, FleetError, NotFound, TimedOut, Unavailable
from protos.net.beats import ENDED, BeatingWriter
from protos.net.verdict import Verdict
from protos.rpc_errors import from_failure, remote
from protos.silence import ASKERS_BEAT_SECONDS
from protos.v1 import pipeline_pb2 as pb

COMES_BACK = "ask again when its devices are back (see glmfleet deployments), or deploy it anew on those that are left"
# With these a request ends when its ring does: a stage is silent, or was lost, or belongs to another ring or plan.
BROKEN_RING = (Unavailable, NotFound, Conflict)
# The head answers Attach when every stage has connected to the next.
ATTACH_SECONDS = 30.0
# A head that tells nothing for so long while requests are open will not tell any more. Long: a prompt of 100,000 tokens on a slow board
# takes most of it, and a device that is gone is known within 2 s without it (protos.silence).
QUIET_SECONDS = 1800.0
END_SECONDS = 10.0
REDIAL = Liveness(longest_wait_seconds=5.0)
# A client that lets this many tokens wait reads slower than the fleet writes: its sequence pauses. At 100 tok/s half a second of text.
WAITING_TOKENS = 64
# And one that pauses for so long while others wait for a slot gives its own to them: its answer goes on when it reads again.
PATIENCE_SECONDS = 2.0


class Token(NamedTuple):
    """As the head told of it."""

    id: int
    logprobs: pb.Logprobs | None = None


class TokenStream:
    """One request's tokens as they come. `take` until None; then `finished` says how it ended."""

    def __init__(self, number: int, send: Callable[[pb.GenerateRequest], None]) -> None:
        self.number = number
        self.finished: pb.Finished | None = None
        # Of the prompt, where they are asked for: whole before the first token, and before the end.
        self.prompt_logprobs: list[pb.Logprobs] = []
        self.embedding: tuple[float, ...] = ()
        self._send = send
        self._waiting: list[Token] = []
        self._error: FleetError | None = None
        self.paused_since: float | None = None  # loop time; its reader takes nothing
        self.gave_way = False  # and others waited: its end is not that of the answer
        self._cancelled = False
        self._news = asyncio.Event()

    async def take(self) -> tuple[Token, ...] | None:
        """All tokens that came since the last call, at least one; None after the last. Raises what ended the stream under it."""
        while not self._waiting:
            if self.finished is not None:
                return None
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        tokens, self._waiting = tuple(self._waiting), []
        if self.paused_since is not None:
            self._pause(False)
        return tokens

    async def end(self) -> pb.Finished:
        """The end, whatever tokens come before it. Raises what ended the stream under it."""
        while await self.take() is not None:
            pass
        assert self.finished is not None
        return self.finished

    def cancel(self) -> None:
        """No more tokens are wanted; `finished` still comes, and with it what the sequence cost."""
        self._cancel(keep=False)

    def give_way(self) -> None:
        """As `cancel`, but what is computed is kept as long as nobody needs the room: the answer is to be asked for again."""
        self.gave_way = not (self._cancelled or self.finished or self._error)
        self._cancel(keep=True)

    def _cancel(self, *, keep: bool) -> None:
        if not (self._cancelled or self.finished or self._error):
            self._cancelled = True
            self._send(pb.GenerateRequest(cancel=pb.Cancel(sequence=self.number, keep=keep)))
            asyncio.get_running_loop().call_later(END_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if not (self.finished or self._error):
            self.fail(TimedOut(f"the sequence did not end within {END_SECONDS:.0f} s"))

    def deliver(self, token: pb.TokenEvent) -> None:
        self._waiting.append(Token(token.token_id, token.logprobs if token.HasField("logprobs") else None))
        self._news.set()
        if len(self._waiting) > WAITING_TOKENS and self.paused_since is None and not self._cancelled:
            self._pause(True)

    def finish(self, finished: pb.Finished) -> None:
        self.finished = finished
        self._news.set()

    def fail(self, error: FleetError) -> None:
        self._error = error
        self._news.set()

    def _pause(self, paused: bool) -> None:
        self.paused_since = asyncio.get_running_loop().time() if paused else None
        if not (self.finished or self._error):
            self._send(pb.GenerateRequest(pause=pb.Pause(sequence=self.number, paused=paused)))


def who_gives_way(running: Iterable[TokenStream], waiting: int, now: float) -> list[TokenStream]:
    """Of those whose readers take nothing, as many as others wait, the longest of them first."""
    patient = [(one.paused_since, one.number, one) for one in running if one.paused_since is not None]
    return [one for since, _, one in sorted(patient, key=lambda each: each[:2])[:waiting] if now - since >= PATIENCE_SECONDS]


class PipelineStream:
    """`run` it as a task. When the stream ends, its sequences fail with the reason, and it is attached anew."""

    def __init__(
        self,
        attach: pb.Attach,
        connect: Callable[[], DeviceClient],
        changed: Callable[[], None],
        rules: Liveness = REDIAL,
        *,
        names: Mapping[str, str] | None = None,
        quiet_seconds: float = QUIET_SECONDS,
        slots: int | None = None,
    ) -> None:
        """`connect` gives the head's client or raises; `changed` is told of every attaching and every loss; `names`: of the ring's
        devices, for errors that came along it; `slots`: sequences that the ring runs at once.
        """
        self._attach = attach
        self._connect = connect
        self._changed = changed
        self._rules = rules
        self._names = names or {}
        self._quiet_seconds = quiet_seconds
        self._slots = slots
        self._looks_again: asyncio.TimerHandle | None = None
        self._deadline: asyncio.Timeout | None = None
        self._sequences: dict[int, TokenStream] = {}
        self._last_number = 0
        self._knows_vocabulary = False  # the head, on this stream
        self._outgoing: asyncio.Queue[pb.GenerateRequest] | None = None
        self._call: grpc.aio.StreamStreamCall[pb.GenerateRequest, pb.GenerateEvent] | None = None
        self._attached = asyncio.Event()
        self._failed = asyncio.Event()
        self._woken = asyncio.Event()
        self.error: FleetError | None = None  # why it is not attached
        # When (loop time) the ring last failed a request, or the head, asked, did not attach us; None while it stands.
        self.broken_at: float | None = None
        self._restarted = False  # by us: that the call ends says nothing
        self._broke = ""  # why the ring last failed a request; "" while it stands

    @property
    def attached(self) -> bool:
        return self._attached.is_set()

    @property
    def open_sequences(self) -> int:
        return len(self._sequences)

    async def wait_attached(self) -> None:
        """Until it is, or raises why the next try failed."""
        self._failed.clear()
        waits = [asyncio.create_task(event.wait()) for event in (self._attached, self._failed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not self.attached:
            raise self.error or Unavailable("the pipeline is not attached")

    def wake(self) -> None:
        """Try now: something changed."""
        self._woken.set()

    @property
    def why(self) -> str:
        """It is not attached, or its ring broke; one line, "" while it stands."""
        return self.error.detail if self.error else self._broke

    def restart(self) -> None:
        """Attach anew, even if the head believes that the ring is up: a stage behind it was loaded again, without its KV."""
        if self._call is not None:
            why = self._broke or "a stage was loaded again"
            self._restarted = True
            self._lost(Unavailable(why, advice=COMES_BACK, retry_after_seconds=1.0))
            self._call.cancel()
        self._woken.set()

    def submit(self, request: pb.Submit, vocabulary: Sequence[pb.Vocabulary] = ()) -> TokenStream:
        """Start a sequence; its number is set here. `vocabulary` is told before the first sequence that needs it. Raises Unavailable while
        the stream is down."""
        if self._outgoing is None or not self.attached:
            why = self.error.detail if self.error else "the pipeline is not attached yet"
            raise Unavailable(why, advice=COMES_BACK, retry_after_seconds=1.0)
        self._last_number += 1
        request.sequence = self._last_number
        sequence = self._sequences[request.sequence] = TokenStream(request.sequence, self._outgoing.put_nowait)
        if len(self._sequences) == 1:
            self._expect_news()
        if vocabulary and not self._knows_vocabulary:
            self._knows_vocabulary = True
            for part in vocabulary:
                self._outgoing.put_nowait(pb.GenerateRequest(vocabulary=part))
        self._outgoing.put_nowait(pb.GenerateRequest(submit=request))
        self._make_way()
        return sequence

    def _make_way(self) -> None:
        """Whoever waits for a slot is given that of a reader who takes nothing."""
        if self._looks_again is not None:
            self._looks_again.cancel()
            self._looks_again = None
        running = [one for one in self._sequences.values() if not one.gave_way]
        waiting = 0 if self._slots is None else len(running) - self._slots
        if waiting > 0:
            loop = asyncio.get_running_loop()
            for one in who_gives_way(running, waiting, loop.time()):
                one.give_way()
            self._looks_again = loop.call_later(PATIENCE_SECONDS / 2, self._make_way)

    async def run(self) -> None:
        failures = 0
        while True:
            self._woken.clear()
            was_attached = False
            try:
                client = self._connect()
            except FleetError as error:
                self._lost(error)  # nobody was asked yet: this says nothing of the ring
            else:
                try:
                    await self._session(client)
                except FleetError as error:
                    was_attached, self.broken_at = self.attached or self._restarted, asyncio.get_running_loop().time()
                    if not self._restarted:  # else it was said why
                        self._lost(self._why(error))
                    self._restarted = False
            failures = 0 if was_attached else failures + 1
            await set_within(self._woken, self._rules.wait_seconds(failures))

    async def _session(self, client: DeviceClient) -> None:
        outgoing: asyncio.Queue[pb.GenerateRequest] = asyncio.Queue()
        self._knows_vocabulary = False
        outgoing.put_nowait(pb.GenerateRequest(attach=self._attach))
        with remote(client.name):
            self._call = call = client.peer.pipeline_stub.Generate(metadata=client.peer.metadata)
            verdict = Verdict(call)
            writer = BeatingWriter(call.write, pb.GenerateRequest())
            tasks = [asyncio.create_task(_write(writer, outgoing), name=f"writer of {self._attach.pipeline_id}")]
            try:
                async with asyncio.timeout(ATTACH_SECONDS) as self._deadline:
                    async for event in call:
                        if event.attached:
                            self._outgoing, self.error = outgoing, None
                            self._ring_stands()
                            if event.takes_beats:
                                beating = writer.beat(ASKERS_BEAT_SECONDS)
                                tasks.append(asyncio.create_task(beating, name=f"beats to {self._attach.pipeline_id}"))
                            self._attached.set()
                            self._changed()
                        self._route(event)
                        self._expect_news()
            except grpc.aio.AioRpcError as error:
                raise verdict.on(error) from None
            except TimeoutError:
                if self.attached:
                    silent = f"nothing came of {len(self._sequences)} requests for {self._quiet_seconds:.0f} s"
                    raise TimedOut(silent).at(client.name) from None
                raise TimedOut(f"the ring did not close within {ATTACH_SECONDS:.0f} s").at(client.name) from None
            finally:
                self._call = self._deadline = None
                call.cancel()
                for task in tasks:
                    await end(task)
        raise Unavailable("the head ended the stream").at(client.name)

    def _expect_news(self) -> None:
        if self._deadline is not None and self.attached:
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._quiet_seconds if self._sequences else None)

    def _route(self, event: pb.GenerateEvent) -> None:
        if event.tokens:
            self._ring_stands()
        for rated in event.prompt_logprobs:
            if sequence := self._sequences.get(rated.sequence):
                sequence.prompt_logprobs += rated.rows
        for found in event.embeddings:
            if sequence := self._sequences.get(found.sequence):
                sequence.embedding = tuple(found.values)
        for token in event.tokens:
            if sequence := self._sequences.get(token.sequence):
                sequence.deliver(token)
        for finished in event.finished:
            if finished.reason == pb.FINISH_REASON_ERROR and finished.failure.code in {kind.__name__ for kind in BROKEN_RING}:
                self.broken_at = asyncio.get_running_loop().time()
                self._broke = from_failure(finished.failure).named(self._names).detail
                self._changed()
            elif finished.reason in (pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH):  # else the ring may not have been asked
                self._ring_stands()
            if ended := self._sequences.pop(finished.sequence, None):
                ended.finish(finished)

    def _ring_stands(self) -> None:
        if self.broken_at is not None:
            self.broken_at, self._broke = None, ""
            self._changed()

    def _why(self, error: FleetError) -> FleetError:
        """Where the stream was broken off because there is no connection to the head any more, why that is so."""
        if isinstance(error, Unavailable):
            try:
                self._connect()
            except Unavailable as why:
                return why
            except FleetError:
                pass
        return error

    def _lost(self, error: FleetError) -> None:
        was_attached, error = self.attached, error.named(self._names)
        self._outgoing, self.error = None, error
        self._attached.clear()
        self._failed.set()
        sequences, self._sequences = self._sequences, {}
        for sequence in sequences.values():
            sequence.fail(error)
        if was_attached:
            self._changed()

    def close(self) -> None:
        """After the task was ended: fail what is still open."""
        self._lost(Unavailable("the pipeline was taken down"))


async def _write(writer: BeatingWriter[pb.GenerateRequest], outgoing: asyncio.Queue[pb.GenerateRequest]) -> None:
    # When the call ends, its reader says why.
    with contextlib.suppress(*ENDED):
        while True:
            await writer.write(await outgoing.get())
