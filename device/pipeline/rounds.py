"""Rounds of one group that follow each other in one turn of the accelerator: each feeds what the one before gave."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from device.engine.engine import Output, Rows, Tokens
from device.pipeline.logprobs import Logprobs, logprobs
from device.pipeline.sampler import sample
from device.pipeline.sequences import Sequence, Step
from protos.errors import FleetError
from protos.v1 import pipeline_pb2 as pb

# Of a prompt's rows so many go through the output head at once: each takes the room of a vocabulary's logits, 0.6 MB for 150,000 tokens. A
# run is always so wide, since each width has arrays of its own.
RATED_ROWS = 16


@dataclass
class Round:
    """A step, the microbatch that it is, and what it gave by when (time.perf_counter)."""

    step: Step
    message: pb.Microbatch
    sampled: dict[Sequence, list[int]] = field(default_factory=dict)
    logprobs: dict[tuple[Sequence, int], Logprobs] = field(default_factory=dict)  # of those that asked, by the token's index in the answer
    prompt_logprobs: list[Logprobs] = field(default_factory=list)  # of the step's `rated`
    ended_at: float = 0.0


class Rounds:
    """`done`, and the one that runs. `sample` and `following` are called within a turn (see Hardware.turn)."""

    def __init__(
        self,
        step: Step,
        message: pb.Microbatch,
        output: Output,
        made: Callable[[Step], tuple[pb.Microbatch, Tokens]],
        *,
        most: int,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """At most `most` rounds (see `Scheduler.rounds`), and no other once `enough()`.

        `made` gives a step's microbatch and what enters its layers.
        """
        self.done = [Round(step, message)]
        self._output = output
        self._made = made
        self._most = most
        self._enough = enough

    def sample(self, hidden: Rows) -> None:
        """One token for each of the running step's `wanted`, whose answers are longer than told by what the rounds before gave; where a
        draft is the token that was chosen, another behind it.

        `hidden`: the step's `returned_rows`. What the head tells of a prompt's rows is taken from them first.
        """
        this = self.done[-1]
        if this.step.read_whole:
            self._read(this, hidden)
            hidden = hidden[-1:]
        if not this.step.wanted:
            return
        if this.step.counts:
            self._verify(this, hidden)
            return
        logits = self._output.logits(hidden)
        for sequence, row in zip(this.step.wanted, logits, strict=True):
            this.sampled[sequence] = []
            self._take(this, sequence, row)

    def _verify(self, this: Round, hidden: Rows) -> None:
        """A draft's row counts only behind drafts that are the tokens which were chosen: it was computed for them."""
        first, logits, ahead = 0, np.empty((0, 0), np.float32), 0
        for sequence, fed in this.step.fed.items():
            tokens = this.sampled[sequence] = []
            for index in range(len(fed)):
                row = ahead + index
                if not first <= row < first + len(logits):
                    first = row
                    logits = self._output.logits(hidden[first : first + RATED_ROWS])
                token = self._take(this, sequence, logits[row - first])
                if token in sequence.request.stop_token_ids or index + 1 == len(fed) or fed[index + 1] != token:
                    break
            ahead += len(fed)
            if sequence.speculation:
                sequence.speculation.came(tokens, len(fed) - 1)

    def _take(self, this: Round, sequence: Sequence, row: npt.NDArray[np.float32]) -> int:
        before = sum(len(one.sampled[sequence]) for one in self.done)
        token = self._next(sequence, row)
        this.sampled[sequence].append(token)
        if (count := sequence.request.told.logprobs) is not None:
            this.logprobs[sequence, len(sequence.answer) + before] = logprobs(row, token, count)
        return token

    def _read(self, this: Round, hidden: Rows) -> None:
        (sequence,) = this.step.sequences
        told, rated = sequence.request.told, this.step.rated
        if told.embedding:
            sequence.pooled.add(self._output.normed(hidden))
        for first in range(0, len(rated), RATED_ROWS):
            tokens = rated[first : first + RATED_ROWS]
            rows = np.zeros((RATED_ROWS, hidden.shape[1]), np.float32)
            rows[: len(tokens)] = hidden[first : first + len(tokens)]
            logits = self._output.logits(rows)
            this.prompt_logprobs += [logprobs(row, token, told.prompt_logprobs or 0) for row, token in zip(logits, tokens, strict=False)]

    def _next(self, sequence: Sequence, logits: npt.NDArray[np.float32]) -> int:
        request, before = sequence.request, [token for one in self.done for token in one.sampled[sequence]]
        if not request.logit_rules.idle:
            answer = [*sequence.answer, *before]
            try:
                fitting = sequence.guide.fitting(answer) if sequence.guide else None
            except FleetError as error:  # whatever token comes now, nobody is told of it
                sequence.error, sequence.cancelled, fitting = error, True, None
            logits = request.logit_rules.apply(logits, answer, fitting)
        return sample(logits, request.sampling, len(request.prompt_ids) + len(sequence.answer) + len(before))

    def following(self) -> tuple[pb.Microbatch, Tokens] | None:
        """The next round, if there is to be one; see `Stage.step`."""
        this = self.done[-1]
        this.ended_at = time.perf_counter()  # not when it was sampled: an accelerator that keeps its pace ends later
        over = len(self.done) >= self._most or self._enough()
        after = None if over else this.step.following(this.sampled)
        if after is None:
            return None
        message, tokens = self._made(after)
        self.done.append(Round(after, message))
        return message, tokens
