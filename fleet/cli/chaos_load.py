"""Clients that ask a fleet in trouble again and again, and compare every token with the answer of a fleet that was left alone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fleet.answering.views import GenerateRequest, TokenChunk
from fleet.cli.client import connect
from fleet.home import Home
from protos.errors import FleetError, Internal, TemporaryError
from protos.sampling import Sampling

PROMPTS = 12
MOST_PROMPT_TOKENS, MOST_TOKENS = 60, 96
# As OpenAI's clients do: who is told to come back comes back, for a while.
BUSY_SECONDS, GIVE_UP_SECONDS = 0.5, 90.0

Flaw = Literal["wrong", "lost", "repeated"]


@dataclass(frozen=True)
class Asked:
    """What came of one request. Times in seconds since the load began; `error` is its kind's name, "" when the answer came whole."""

    began: float
    ended: float
    tokens: int
    longest_pause: float  # between two tokens, the first counted from its acceptance
    error: str = ""
    detail: str = ""
    flaw: Flaw | None = None


def requests(seed: int, vocabulary: int = 250) -> tuple[GenerateRequest, ...]:
    """Greedy ones and seeded ones in turn, of different lengths, each of fixed length: answers that can be compared token by token."""
    chance = random.Random(f"requests {seed}")  # nosec B311 # the same every time
    return tuple(
        GenerateRequest(
            prompt_ids=tuple(chance.randrange(5, vocabulary) for _ in range(chance.randrange(4, MOST_PROMPT_TOKENS))),
            max_tokens=chance.randrange(MOST_TOKENS // 3, MOST_TOKENS),
            ignore_eos=True,
            sampling=Sampling(temperature=0.8 if number % 2 else 0.0, seed=number),
        )
        for number in range(PROMPTS)
    )


def flaw_of(tokens: Sequence[int], expected: Sequence[int], *, whole: bool) -> Flaw | None:
    """How an answer differs from the one that would have come; `whole`: it was said to be complete, and not broken off by an error."""
    tokens, expected = list(tokens), list(expected)
    if tokens == expected or (not whole and tokens == expected[: len(tokens)]):
        return None
    if tokens == expected[: len(tokens)]:
        return "lost"
    first = next(at for at, token in enumerate(tokens) if at >= len(expected) or token != expected[at])
    for back in range(1, first + 1):  # from some token on, it says again what it said before
        if tokens[first:] == expected[first - back : first - back + len(tokens) - first]:
            return "repeated"
    rest = tokens[first:]
    return "lost" if any(rest == expected[ahead : ahead + len(rest)] for ahead in range(first + 1, len(expected))) else "wrong"


@dataclass
class Load:
    """`run` it; `asked` and `tokens` grow meanwhile, and may be read by another thread."""

    home: Home
    expected: Sequence[tuple[GenerateRequest, Sequence[int]]]
    seed: int
    clock: Callable[[], float] = time.monotonic
    asked: list[Asked] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._stop = threading.Event()

    def run(self, clients: int, seconds: float) -> None:
        """Blocks. Each client asks until the time is over, once at least, and hears its last answer out."""
        self._began = self.clock()
        threads = [threading.Thread(target=self._client, args=(number, seconds), name=f"client {number}") for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            self._stop.set()

    @property
    def now(self) -> float:
        """Seconds since the load began."""
        return self.clock() - self._began

    def _client(self, number: int, seconds: float) -> None:
        chance = random.Random(f"client {self.seed}/{number}")  # nosec B311 # the same every time
        while True:
            request, expected = chance.choice(self.expected)
            self.asked.append(self._ask(request, expected))
            if self.now >= seconds or self._stop.is_set():
                return

    def _ask(self, request: GenerateRequest, expected: Sequence[int]) -> Asked:
        began = self.now
        tokens: list[int] = []
        last, longest = began, 0.0
        error: FleetError | None = None
        while True:
            try:
                with connect(self.home) as coordinator:
                    for part in coordinator.generate(request):
                        now = self.now
                        last, longest = now, max(longest, now - last)
                        if isinstance(part, TokenChunk):
                            tokens.extend(part.token_ids)
                            self.token_times.extend([now] * len(part.token_ids))
                break
            except FleetError as failure:
                if isinstance(failure, TemporaryError) and not tokens and self.now < began + GIVE_UP_SECONDS and not self._stop.is_set():
                    time.sleep(BUSY_SECONDS)  # nobody has taken it
                    last = self.now
                    continue
                error = failure
                break
            except Exception as defect:
                error = Internal(f"{type(defect).__name__}: {defect}")
                break
        flaw = flaw_of(tokens, expected, whole=error is None)
        name, detail = (type(error).__name__, error.detail) if error else ("", "")
        return Asked(began, self.now, len(tokens), longest, name, detail, flaw)
