"""What the scheduler speaks of: requests, sequences on their way, and the steps in which they run."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from itertools import accumulate

from device.pipeline.guides import Guide
from device.pipeline.pooling import Pooled
from device.pipeline.speculation import Speculation
from device.pipeline.token_rules import LogitRules, logit_rules
from protos.decoding import MOST_RUN_ROWS
from protos.errors import FleetError
from protos.even import even_down, even_up
from protos.sampling import ANY_TOKEN, GREEDY, Sampling, TokenRules
from protos.told import TOKENS_ALONE, Told


class Ending(Enum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Span:
    """Rows from `start` to the next span have the positions (anchor, 1), (anchor, 2), …."""

    start: int
    anchor: int


@dataclass(frozen=True)
class Request:
    """`forced_ids` are the answer's known first tokens: they go through the decode path and are counted, not told. Where more than
    `most_replayed` of them would have to, those go through prefill, which is sooner over and not exact; None: they never do.

    With `reuse_decoded` rows that another answer's decoding made may serve as this prompt's, as an earlier turn's do: it begins sooner, but
    its text is not that of a cold run, and `forced_ids` do not repeat it exactly. A prompt with a `prefix` takes over none of them.
    """

    prompt_ids: tuple[int, ...]
    forced_ids: tuple[int, ...] = ()
    sampling: Sampling = GREEDY
    max_tokens: int = 1
    stop_token_ids: frozenset[int] = frozenset()
    prefix: int = 0  # so many first tokens of the prompt are one run, the others decoded; 0: all in chunks as they fit
    spans: tuple[Span, ...] = ()
    reuse_decoded: bool = False
    rules: TokenRules = ANY_TOKEN
    key: bytes = b""  # the same in each attempt at one request; empty: none of its rows are kept
    told: Told = TOKENS_ALONE
    most_replayed: int | None = None
    undrafted: bool = False

    @cached_property
    def logit_rules(self) -> LogitRules:
        return logit_rules(self.rules, self.sampling, self.prompt_ids, self.stop_token_ids)

    @property
    def prefilled(self) -> int:
        """Rows that prefill makes of the prompt; decoding makes the others."""
        return self.prefix or len(self.prompt_ids)

    def prefills_forced(self, rows: int) -> bool:
        """Whether prefill takes the forced tokens, since too many rows that were decoded before are not among the `rows` that are there.
        The last token was sampled only: its row is computed for the first time."""
        left = len(self.forced_ids) - 1 - max(0, rows - len(self.prompt_ids))
        return self.most_replayed is not None and not self.prefix and left > self.most_replayed

    def kept(self, rows: int) -> int:
        """Of `rows` first rows of an attempt before, how many may stay: those of known tokens, but for the one whose logits are wanted.
        None where all are wanted."""
        if self.told.of_prompt:
            return 0
        prompt, known = len(self.prompt_ids), len(self.forced_ids)
        rows = min(rows, prompt + known - 1)
        if rows >= self.prefilled:
            return rows
        return 0 if self.prefix else even_down(rows)  # chunks begin as they would

    def positions(self, row: int) -> tuple[int, int]:
        """Of a row in a model with learned positions."""
        if row < self.prefix:
            return row, 0
        span = max((span for span in self.spans if span.start <= row), key=lambda span: span.start)
        return span.anchor, row - span.start + 1


@dataclass(eq=False)
class Sequence:
    """One request on its way. `number` is its name on the ring."""

    number: int
    request: Request
    group: int = -1
    slot: int = -1
    length: int = 0  # positions in the cache
    reused: int = 0  # of them, rows that others made
    answer: list[int] = field(default_factory=list)
    pooled: Pooled = field(default_factory=Pooled)  # where the embedding is asked for
    paused: bool = False
    in_flight: bool = False
    cancelled: bool = False
    abandoned: bool = False  # cancelled since its reader was lost, who may ask again
    guide: Guide | None = None
    speculation: Speculation | None = None  # where it is decoded by runs, unless it is to be undrafted
    error: FleetError | None = None  # why it was cancelled by us
    ending: Ending | None = None
    input_ids: tuple[int, ...] = ()  # the prompt's; behind them the answer's forced tokens, where prefill takes these too
    forced_prefilled: int = 0  # of the forced tokens, those that go through prefill

    def __post_init__(self) -> None:
        self.input_ids = self.request.prompt_ids

    def begin(self, rows: int) -> None:
        """Behind `rows` first rows that are there: of an attempt before (see Request.kept), or of another prompt that begins alike."""
        request = self.request
        if request.prefills_forced(rows):
            self.length = even_down(rows)
            self.input_ids = request.prompt_ids + request.forced_ids
            self.answer = list(request.forced_ids)
            self.forced_prefilled = len(self.input_ids) - max(self.length, len(request.prompt_ids))
        else:
            self.length = rows
            self.answer = list(request.forced_ids[: max(0, rows - len(request.prompt_ids) + 1)])

    @property
    def kept_for_another(self) -> bool:
        """Its rows stay for another attempt at its request."""
        return self.abandoned and bool(self.request.key) and self.length > 0

    @property
    def waits(self) -> bool:
        """No step of it is to be made now."""
        return self.paused or (self.guide is not None and not self.guide.ready)

    @property
    def prefilling(self) -> bool:
        return self.length < self.prefilled

    @property
    def prefilled(self) -> int:
        """Its first rows, so many, are prefill's to make."""
        return self.request.prefix or len(self.input_ids)

    @property
    def reading(self) -> bool:
        """Its next row is not the last of those before its first sampled token: nothing can be told yet."""
        return self.length + 1 < len(self.input_ids)

    @property
    def next_row(self) -> int:
        """The token to decode next: the rest of the prompt, then the answer's last."""
        return self.input_ids[self.length] if self.length < len(self.input_ids) else self.answer[-1]

    @property
    def next_is_forced(self) -> bool:
        return len(self.answer) < len(self.request.forced_ids)

    def drafts(self, start: int, answered: int, others: int, room: int, runs: Runs) -> tuple[int, ...]:
        """To feed behind its last token, which is `answered`'s of the answer and goes to position `start`. `others`: rows of other
        sequences in the step, which has `room` for more."""
        left = min(runs.limit - start, self.request.max_tokens - answered, MOST_RUN_ROWS, room) - 1
        return self.speculation.drafts(left, others, runs.fixed_rows) if self.speculation and left > 0 else ()


@dataclass(frozen=True)
class Runs:
    """What bounds the decode steps of a deployment that decodes by runs: no row is at `limit` or behind, a step has at most `most_rows`,
    and its time is as of `fixed_rows` more (see device/pipeline/speculation.py)."""

    limit: int
    most_rows: int
    fixed_rows: float


@dataclass(frozen=True)
class Step:
    """One microbatch of `group`. Changes of slots come first, in the order released, swapped, opened, copied; then the rows run.

    Prefill: one sequence, several tokens at [start, …). Decode: a token of each sequence, in slot order; by `runs` so many (`counts`), of
    which the first is known, at consecutive positions from each of `positions` on.
    """

    group: int
    prefill: bool
    sequences: tuple[Sequence, ...]
    tokens: tuple[int, ...]
    positions: tuple[int, ...]  # prefill: the first only
    wanted: tuple[Sequence, ...]  # whose last row gives a token
    released: tuple[tuple[int, Sequence], ...]  # (slot, sequence); the rows stay in the slot
    swapped: tuple[tuple[int, int], ...]  # (from, to): all that the two slots hold, `to` being free
    opened: tuple[tuple[int, Sequence, int], ...]  # (slot, sequence, first rows of the slot that are its own)
    copied: tuple[tuple[int, int, int], ...]  # (from, to, rows): the first rows of another slot
    counts: tuple[int, ...] = ()
    answered: tuple[int, ...] = ()  # by runs: tokens of each answer, the known one included
    runs: Runs | None = None

    @property
    def read_whole(self) -> bool:
        """The head needs all rows of this prefill."""
        return self.prefill and self.sequences[0].request.told.of_prompt

    @property
    def returned_rows(self) -> int:
        """Of hidden rows that the head needs."""
        return len(self.tokens) if self.read_whole or self.counts else len(self.wanted)

    @property
    def rated(self) -> tuple[int, ...]:
        """Tokens of the prompt whose log probabilities its first rows give, one a row."""
        request = self.sequences[0].request
        if not self.prefill or request.told.prompt_logprobs is None:
            return ()
        return request.prompt_ids[self.positions[0] + 1 :][: len(self.tokens)]

    @property
    def head_rows(self) -> int:
        """That go through the output head."""
        return len(self.rated) + (len(self.tokens) if self.counts else len(self.wanted))

    @property
    def fed(self) -> dict[Sequence, tuple[int, ...]]:
        """By runs: the tokens of each sequence, of which all but the first are drafts."""
        ends = list(accumulate(self.counts))
        return {sequence: self.tokens[end - count : end] for sequence, count, end in zip(self.sequences, self.counts, ends, strict=True)}

    def following(self, sampled: Mapping[Sequence, Items[int]]) -> Step | None:
        """The decode step that feeds what this one gave, when nothing else changes; None when what it gave ends one of them."""
        if any(tokens[-1] in sequence.request.stop_token_ids for sequence, tokens in sampled.items()):
            return None
        tokens = tuple(sampled[sequence][-1] for sequence in self.sequences)
        positions = tuple(at + len(sampled[sequence]) for sequence, at in zip(self.sequences, self.positions, strict=True))
        if self.runs is None:
            return Step(self.group, False, self.sequences, tokens, positions, self.sequences, (), (), (), ())
        answered = tuple(count + len(sampled[sequence]) for sequence, count in zip(self.sequences, self.answered, strict=True))
        ended = (
            at >= self.runs.limit or count >= s.request.max_tokens for s, at, count in zip(self.sequences, positions, answered, strict=True)
        )
        return None if any(ended) else step_of_runs(self.group, self.sequences, tokens, positions, answered, self.runs)


def step_of_runs(
    group: int,
    sequences: tuple[Sequence, ...],
    known: tuple[int, ...],
    positions: tuple[int, ...],
    answered: tuple[int, ...],
    runs: Runs,
    released: tuple[tuple[int, Sequence], ...] = (),
    swapped: tuple[tuple[int, int], ...] = (),
    opened: tuple[tuple[int, Sequence, int], ...] = (),
) -> Step:
    """The decode step that feeds each of `sequences` its `known` token, and what is drafted behind it."""
    tokens: list[int] = []
    counts: list[int] = []
    padded = 0  # rows that are computed, of those before
    for index, (sequence, token, start, count) in enumerate(zip(sequences, known, positions, answered, strict=True)):
        after = len(sequences) - index - 1
        drafts = sequence.drafts(start, count, padded + 2 * after, runs.most_rows - len(tokens) - after, runs)
        tokens += [token, *drafts]
        counts.append(1 + len(drafts))
        padded += even_up(counts[-1])
    step = Step(group, False, sequences, tuple(tokens), positions, sequences, released, swapped, opened, ())
    return replace(step, counts=tuple(counts), answered=answered, runs=runs)


@dataclass(frozen=True)
class SampledToken:
    """A token that its client has not had; forced ones are not sampled."""

    sequence: Sequence
    index: int
    token: int
