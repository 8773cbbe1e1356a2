"""A model's text of which nothing that came with the model is run in this process: prompts are made in others, limited in time and memory.

Short prompts share one process, which is there all the time. A long one has its own, so that no other waits for it, and all that it took
goes with it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Protocol, Self

from device.text.child import Child, Killed
from device.text.encoder import check_length
from device.text.messages import Message
from device.text.words import Words
from protos.errors import InvalidInput, by_name

SHORT_CHARACTERS = 1 << 16  # some 50 ms of work
LOAD_SECONDS = 60.0  # GLM-4's takes one, on a machine that has nothing else to do
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
        self._worker = Worker(files, tuple(eos_token_ids), vocab_size)
        answer = self._worker.start(words=True)
        self.words = Words.of_plain(answer["words"])
        self._longest: int = answer["longest"]
        self._lock = threading.Lock()

    def maker(self, characters: int) -> ConfinedMaker:
        """For a prompt of so many characters in all."""
        if characters > SHORT_CHARACTERS:
            return ConfinedMaker(self._worker.another(), self.words, self._longest, LONG_SECONDS, None)
        return ConfinedMaker(self._worker, self.words, self._longest, SHORT_SECONDS, self._lock)

    def close(self) -> None:
        """No more prompts; what is being made is given up. From any thread."""
        self._worker.stop()

    def chat_problem(self) -> str:
        with self.maker(0) as maker:
            return maker.chat_problem()


class Worker:
    """The process `device.text.text_worker`, and what it is started with. One thread uses it at a time."""

    def __init__(self, files: Mapping[str, bytes], eos_token_ids: Sequence[int], vocab_size: int) -> None:
        self._files = files
        self._eos_token_ids = eos_token_ids
        self._vocab_size = vocab_size
        self._told = {"eos_token_ids": eos_token_ids, "vocab_size": vocab_size, "files": {name: len(data) for name, data in files.items()}}
        self._child: Child | None = None
        self._stopped = False

    def another(self) -> Worker:
        return Worker(self._files, self._eos_token_ids, self._vocab_size)

    def start(self, words: bool = False) -> dict[str, Any]:
        self._child = Child("device.text.text_worker")
        if self._stopped:
            self._child.end()
        return self._asked({**self._told, "words": words}, LOAD_SECONDS, "to be read", b"".join(self._files.values()))

    def ask(self, asked: Mapping[str, Any], seconds: float) -> Any:
        """Raises InvalidInput where it took too much, and what it raised itself."""
        if self._child is None or not (self._child.alive or self._stopped):
            self.start()
        return self._asked(asked, seconds, "for this prompt")["found"]

    def stop(self) -> None:
        """From any thread: whatever it does is given up, and nothing else begun."""
        self._stopped = True
        if self._child is not None:
            self._child.kill()

    def end(self) -> None:
        """From the thread that uses it."""
        if self._child is not None:
            self._child.end()

    def _asked(self, asked: Mapping[str, Any], seconds: float, what: str, data: bytes = b"") -> dict[str, Any]:
        assert self._child is not None
        try:
            answer = self._child.ask(asked, seconds, data)
        except Killed:
            raise InvalidInput(
                f"the model's tokenizer or chat template took too much time or memory {what}",
                advice="send a shorter prompt, or use another model",
            ) from None
        if (error := answer.get("error")) is not None:
            raised = by_name(error["name"], error["cause"])
            raised.advice = error["advice"]
            raise raised
        return answer


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
