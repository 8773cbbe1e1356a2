"""The text of an answer as its tokens come: whole characters, cut at the first stop string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from device.text.detokenizer import Detokenizer
from device.text.stops import StopStrings
from fleet.answering.views import TokenChunk, TokenLogprobs


class Answer:
    """Grows by `push`, ends with `finish`; `text` and `token_ids` are all that was given out."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str], min_tokens: int = 0, *, in_thought: bool = False) -> None:
        """A stop string counts only behind so many tokens. `in_thought`: see TokenChunk. Raises InvalidInput for an empty stop string."""
        self.in_thought = in_thought
        self._detokenizer = detokenizer
        self._min_tokens = min_tokens
        self._stops = StopStrings(stops)
        self._pending: list[int] = []
        self._pieces: list[str] = []
        self._told = 0  # of the log probabilities
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def stopped(self) -> bool:
        """A stop string is complete: it, and what follows, is not part of the text."""
        return self._stops.stopped

    def push(self, token_ids: Iterable[int], logprobs: Iterable[TokenLogprobs] = ()) -> TokenChunk | None:
        """The text that became certain, with the tokens since the chunk before. What follows a stop string is dropped.

        `logprobs` of each token, or of none.
        """
        text, told = "", iter(logprobs)
        for token_id in token_ids:
            if self.stopped:
                break
            self.token_ids.append(token_id)
            self.logprobs.extend(islice(told, 1))
            self._pending.append(token_id)
            text += self._stops.push(self._detokenizer.push([token_id]), armed=self._armed)
        return self._chunk(text) if text else None

    def finish(self) -> TokenChunk | None:
        """What is left: held back text, tokens without text."""
        text = ""
        if not self.stopped:
            text = self._stops.push(self._detokenizer.finish(), armed=self._armed)
            text += self._stops.finish()
        return self._chunk(text) if text or self._pending else None

    @property
    def _armed(self) -> bool:
        return len(self.token_ids) > self._min_tokens

    def _chunk(self, text: str) -> TokenChunk:
        self._pieces.append(text)
        chunk = TokenChunk(text, tuple(self._pending), self.in_thought, tuple(self.logprobs[self._told :]))
        self._pending, self._told = [], len(self.logprobs)
        return chunk
