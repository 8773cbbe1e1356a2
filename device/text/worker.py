"""A process that has a model's text, as its parent sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from device.text.child import Child, Killed
from protos.errors import InvalidInput, by_name

LOAD_SECONDS = 60.0  # GLM-4's takes one, on a machine that has nothing else to do


class Worker:
    """One process, and what it is started with: by default `device.text.text_worker`. One thread uses it at a time."""

    def __init__(
        self, files: Mapping[str, bytes], eos_token_ids: Sequence[int], vocab_size: int, module: str = "device.text.text_worker"
    ) -> None:
        self._module = module
        self._files = files
        self._eos_token_ids = eos_token_ids
        self._vocab_size = vocab_size
        self._told = {"eos_token_ids": eos_token_ids, "vocab_size": vocab_size, "files": {name: len(data) for name, data in files.items()}}
        self._child: Child | None = None
        self._stopped = False

    def another(self, module: str | None = None) -> Worker:
        """With the same files, for whatever the module does."""
        return Worker(self._files, self._eos_token_ids, self._vocab_size, module or self._module)

    def start(self, words: bool = False) -> dict[str, Any]:
        self._child = Child(self._module)
        if self._stopped:
            self._child.end()
        return self._asked({**self._told, "words": words}, LOAD_SECONDS, "to be read", b"".join(self._files.values()))

    def ask(self, asked: Mapping[str, Any], seconds: float, what: str = "for this prompt") -> Any:
        """Raises InvalidInput where it took too much, which was done `what`, and what it raised itself."""
        self.started()
        return self._asked(asked, seconds, what)["found"]

    def started(self) -> bool:
        """Whether it had to be started. Raises as `start`."""
        if begin := self._child is None or not (self._child.alive or self._stopped):
            self.start()
        return begin

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
                advice="send a smaller one, or use another model",
            ) from None
        if (error := answer.get("error")) is not None:
            raised = by_name(error["name"], error["cause"])
            raised.advice = error["advice"]
            raise raised
        return answer
