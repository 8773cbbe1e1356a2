"""The head's side of its clients: their streams' events, and what each sequence is sent at its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from device.pipeline.kept import MOST_KEY_BYTES
from device.pipeline.logprobs import Logprobs
from device.pipeline.sequences import Ending, Request, SampledToken, Sequence, Span, Step
from device.stage_spec import StageShape
from protos.errors import FleetError, InvalidInput
from protos.rpc_errors import to_failure
from protos.sampling import check_counts, from_message, rules_from_message
from protos.told import told_from_message
from protos.v1 import pipeline_pb2 as pb
from protos.v1 import telemetry_pb2

# Tokens that follow what was sent by less than this go together. A message a token costs three processes more time than a small model's
# whole step takes to hand on; a reader sees no difference at 40 a second.
TOGETHER_SECONDS = 0.025
MOST_UNREAD = 1024  # events that wait for a client

_REASONS = {
    Ending.STOP: pb.FINISH_REASON_STOP,
    Ending.LENGTH: pb.FINISH_REASON_LENGTH,
    Ending.CANCELLED: pb.FINISH_REASON_CANCELLED,
}


@dataclass(eq=False)
class Client:
    """One Generate stream. `sequences` are its open ones, by its own numbers."""

    sequences: dict[int, Sequence] = field(default_factory=dict)
    _events: asyncio.Queue[pb.GenerateEvent] = field(default_factory=asyncio.Queue)
    _urgent: asyncio.Event = field(default_factory=asyncio.Event)
    _taken_at: float = -math.inf
    _taken: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, event: pb.GenerateEvent, *, urgent: bool) -> None:
        """Urgent is what somebody waits for: an end, the first token of an answer."""
        self._events.put_nowait(event)
        if urgent:
            self._urgent.set()

    async def take(self) -> pb.GenerateEvent:
        """All that is to be sent, as one event: at once if it is urgent, else TOGETHER_SECONDS after the one before at the soonest."""
        event = await self._events.get()
        wait_seconds = self._taken_at + TOGETHER_SECONDS - time.monotonic()
        if wait_seconds > 0 and not self._urgent.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), wait_seconds)
        self._urgent.clear()
        while not self._events.empty():
            event.MergeFrom(self._events.get_nowait())
        self._taken.set()
        self._taken_at = time.monotonic()
        return event

    async def room(self) -> None:
        """Wait while the client does not read what it was told: it may ask for nothing more meanwhile."""
        while self._events.qsize() >= MOST_UNREAD:
            self._taken.clear()
            await self._taken.wait()

    def refuse(self, number: int, error: FleetError) -> None:
        """Tell that a sequence ended by an error."""
        finished = pb.Finished(sequence=number, reason=pb.FINISH_REASON_ERROR, failure=to_failure(error))
        self.send(pb.GenerateEvent(finished=[finished]), urgent=True)


@dataclass(eq=False)
class Track:
    """What the head remembers of a sequence beside its tokens: whose it is, and when what happened."""

    client: Client
    client_number: int
    sequence: Sequence
    arrived_at: float  # wall, monotonic
    modelled_arrival: float
    exact: bool = False  # what is prefilled is what would have been decoded
    started_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None
    modelled_first_token: float | None = None
    modelled_end: float | None = None

    def start(self, now: float) -> None:
        """Before each of its steps."""
        if self.started_at is None:
            self.started_at = now

    def note(self, now: float, modelled: float | None) -> None:
        """After each of its steps, or when it ended without one."""
        told = len(self.sequence.answer) > len(self.sequence.request.forced_ids)
        if self.first_token_at is None and (told or self.sequence.ending):
            self.first_token_at, self.modelled_first_token = now, modelled
        if self.sequence.ending and self.ended_at is None:
            self.ended_at, self.modelled_end = now, modelled

    def finish(self, usage: Iterable[telemetry_pb2.StageUsage]) -> None:
        """Tell the client how it ended and what it cost, and forget it there."""
        assert self.sequence.ending
        if self.sequence.error is not None:
            self.client.sequences.pop(self.client_number, None)
            self.client.refuse(self.client_number, self.sequence.error)
            return
        assert self.ended_at is not None
        assert self.first_token_at is not None
        timing = pb.SequenceTiming(
            queue_seconds=(self.ended_at if self.started_at is None else self.started_at) - self.arrived_at,
            first_token_seconds=self.first_token_at - self.arrived_at,
            total_seconds=self.ended_at - self.arrived_at,
            prompt_tokens=len(self.sequence.request.prompt_ids),
            completion_tokens=len(self.sequence.answer),
            told_tokens=max(0, len(self.sequence.answer) - len(self.sequence.request.forced_ids)),
            reused_tokens=self.sequence.reused,
            forced_prefilled=0 if self.exact else self.sequence.forced_prefilled,
            drafted_tokens=self.sequence.speculation.drafted if self.sequence.speculation else 0,
            accepted_tokens=self.sequence.speculation.accepted if self.sequence.speculation else 0,
        )
        if self.modelled_first_token is not None and self.modelled_end is not None:
            timing.modelled_first_token_seconds = self.modelled_first_token - self.modelled_arrival
            timing.modelled_total_seconds = self.modelled_end - self.modelled_arrival
        self.client.sequences.pop(self.client_number, None)
        reason = _REASONS[self.sequence.ending]
        finished = pb.Finished(sequence=self.client_number, reason=reason, timing=timing, usage=usage)
        self.client.send(pb.GenerateEvent(finished=[finished]), urgent=True)


def send_tokens(sampled: Iterable[SampledToken], tracks: Mapping[int, Track], logprobs: Mapping[tuple[Sequence, int], Logprobs]) -> None:
    """Send a step's tokens, in one event for each client. `tracks`: by the sequence's number on the ring."""
    events: dict[Client, pb.GenerateEvent] = {}
    first: set[Client] = set()
    for item in sampled:
        track = tracks[item.sequence.number]
        event = events.setdefault(track.client, pb.GenerateEvent())
        told = event.tokens.add(sequence=track.client_number, index=item.index, token_id=item.token)
        if (found := logprobs.get((item.sequence, item.index))) is not None:
            told.logprobs.CopyFrom(_logprobs(found))
        if item.index == len(item.sequence.request.forced_ids):
            first.add(track.client)
    for client, event in events.items():
        client.send(event, urgent=client in first)


def send_read(step: Step, prompt_logprobs: Iterable[Logprobs], track: Track) -> None:
    """What a chunk of a prompt gave beside its rows: see Told."""
    (sequence,) = step.sequences
    event, number = pb.GenerateEvent(), track.client_number
    if rows := [_logprobs(one) for one in prompt_logprobs]:
        event.prompt_logprobs.add(sequence=number, start=step.positions[0] + 1, rows=rows)
    if sequence.request.told.embedding and step.positions[0] + len(step.tokens) == len(sequence.request.prompt_ids):
        event.embeddings.add(sequence=number, values=sequence.pooled.mean.tolist())
    track.client.send(event, urgent=False)


def _logprobs(found: Logprobs) -> pb.Logprobs:
    return pb.Logprobs(chosen=found.chosen, ids=found.ids, values=found.values)


def parse_submit(message: pb.Submit, shape: StageShape) -> Request:
    """Raises InvalidInput for what this pipeline cannot run."""
    prompt, forced = tuple(message.prompt_ids), tuple(message.forced_ids)
    if not prompt:
        raise InvalidInput("the prompt is empty")
    if len(prompt) + len(forced) >= shape.context:
        raise InvalidInput(f"the prompt has {len(prompt) + len(forced)} tokens; the context of this deployment is {shape.context}")
    if (highest := max(prompt + forced)) >= shape.vocab_size:
        raise InvalidInput(f"token id {highest} is outside the vocabulary of {shape.vocab_size}")
    if forced and len(forced) >= message.max_tokens:
        raise InvalidInput(f"{len(forced)} forced tokens leave nothing of max_tokens {message.max_tokens}")
    spans = tuple(Span(span.start, span.anchor) for span in message.spans)
    _check_prefix(message.prefix, spans, len(prompt), shape)
    check_counts((), 0, len(message.stop_token_ids))
    sampling, rules = from_message(message.sampling), rules_from_message(message.sampling)
    stops = frozenset(message.stop_token_ids)
    if (highest := max(rules.token_ids, default=0)) >= shape.vocab_size:
        raise InvalidInput(f"token id {highest} is outside the vocabulary of {shape.vocab_size}")
    told = told_from_message(message.sampling)
    if told.of_prompt and shape.prefix_whole:
        raise InvalidInput("this model reads a prompt in both directions: nothing is told of its tokens")
    if len(message.key) > MOST_KEY_BYTES:
        raise InvalidInput(f"a key of {len(message.key)} bytes; at most {MOST_KEY_BYTES}")
    return Request(
        prompt_ids=prompt,
        forced_ids=forced,
        sampling=sampling,
        max_tokens=message.max_tokens,
        stop_token_ids=stops,
        prefix=message.prefix,
        spans=spans,
        reuse_decoded=message.reuse_decoded,
        rules=rules,
        key=message.key,
        told=told,
        most_replayed=message.most_replayed if message.HasField("most_replayed") else None,
        undrafted=message.undrafted,
    )


def _check_prefix(prefix: int, spans: tuple[Span, ...], prompt: int, shape: StageShape) -> None:
    """The rows behind the prefix need positions that the model's tables have: none exceeds the context, which is no longer than they."""
    if not shape.prefix_whole:
        if prefix or spans:
            raise InvalidInput("this pipeline takes prompts without a prefix of their own")
        return
    if not 0 < prefix < prompt or prefix > shape.prefill_chunk:
        raise InvalidInput(f"the prefix has {prefix} of the prompt's {prompt} tokens; at most {shape.prefill_chunk} run at once")
    starts = [span.start for span in spans]
    ascending = all(before < after for before, after in itertools.pairwise(starts))
    if shape.learned_positions and not (
        ascending and starts[:1] == [prefix] and starts[-1] < prompt and all(span.anchor < prefix for span in spans)
    ):
        raise InvalidInput("the spans behind the prefix do not begin with it, or fill what is not in it")
