"""A model's text of which nothing that came with the model is run in this process: prompts are made in others, limited in time and memory.

Short prompts share one process, which is there all the time. A long one has its own, so that no other waits for it, and all that it took
goes with it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from types import TracebackType
from typing import Any, Protocol, Self

from device.text.confined_formats import ConfinedFormats
from device.text.encoder import check_length
from device.text.messages import Message
from device.text.words import Words
from device.text.worker import Worker
from device.vocabulary import Vocabulary

SHORT_CHARACTERS = 1 << 16  # some 50 ms of work
SHORT_SECONDS = 10.0  # a template has 5
LONG_SECONDS = 60.0
_NO_VARIABLES: Mapping[str, Any] = {}


class PromptMaker(Protocol):
    """What makes token ids of texts; see `device.text.model.TextModel`, whose methods these are."""

    def encode(self, text: str, context: int | None = None) -> list[int]: ...

    def chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[str] = (),
        variables: Mapping[str, Any] = _NO_VARIABLES,
        context: int | None = None,
    ) -> list[int]: ...

    def all_pieces(self, texts: Sequence[str]) -> list[list[int]]: ...

    def token(self, token_id: int) -> str: ...


class ConfinedText:
    """Safe to use from several threads. `words` are how its token ids are written."""

    def __init__(self, files: Mapping[str, bytes], eos_token_ids: Iterable[int], vocab_size: int) -> None:
        """As `TextModel.load`, in some tenths of a second. Raises what that does, and InvalidInput where it took too much."""
        ends = tuple(eos_token_ids)
        self._worker = Worker(files, ends, vocab_size)
        answer = self._worker.start(words=True)
        self.words = Words.of_plain(answer["words"])
        self._longest: int = answer["longest"]
        self._lock = threading.Lock()
        self.formats = ConfinedFormats(self._worker.another("device.text.format_worker"))
        self._size, self._ends = vocab_size, ends

    def maker(self, characters: int) -> ConfinedMaker:
        """For a prompt of so many characters in all."""
        if characters > SHORT_CHARACTERS:
            return ConfinedMaker(self._worker.another(), self.words, self._longest, LONG_SECONDS, None)
        return ConfinedMaker(self._worker, self.words, self._longest, SHORT_SECONDS, self._lock)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """For grammars. Made at first, in some tenths of a second."""
        return self.words.vocabulary(self._size, self._ends)

    def close(self) -> None:
        """No more prompts; what is being made is given up. From any thread."""
        self._worker.stop()
        self.formats.close()

    def chat_problem(self) -> str:
        with self.maker(0) as maker:
            return maker.chat_problem()


class ConfinedMaker:
    """A PromptMaker while it is entered."""

    def __init__(self, worker: Worker, words: Words, longest: int, seconds: float, shared: threading.Lock | None) -> None:
        """`shared` guards a worker that others use too; None: it is this one's own, and ends with it."""
        self._worker = worker
        self._words = words
        self._longest = longest
        self._seconds = seconds
        self._shared = shared

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.is_long:
            self._worker.end()

    @property
    def is_long(self) -> bool:
        return self._shared is None

    def leave(self) -> None:
        """Nobody waits for it any more. From any thread."""
        if self.is_long:
            self._worker.stop()

    def encode(self, text: str, context: int | None = None) -> list[int]:
        check_length(text, context, self._longest)
        found: list[int] = self._ask("encode", text=text, context=context)
        return found

    def chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[str] = (),
        variables: Mapping[str, Any] = _NO_VARIABLES,
        context: int | None = None,
    ) -> list[int]:
        told = {"messages": [dataclasses.asdict(one) for one in messages], "tools": list(tools), "variables": variables}
        found: list[int] = self._ask("chat", **told, add_generation_prompt=add_generation_prompt, context=context)
        return found

    def all_pieces(self, texts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = self._ask("pieces", texts=list(texts))
        return found

    def token(self, token_id: int) -> str:
        return self._words.token(token_id)

    def chat_problem(self) -> str:
        return str(self._ask("chat_problem"))

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        before, behind = self._ask("frame")
        return before, behind

    def _ask(self, what: str, **details: Any) -> Any:
        with self._shared or nullcontext():
            return self._worker.ask({"do": what, **details}, self._seconds)
