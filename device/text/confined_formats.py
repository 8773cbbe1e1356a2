"""Formats of answers made grammars in a process of their own: a stranger's may take any time and memory, and no prompt waits for it."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict

from device.text.formats import Format
from device.text.worker import LOAD_SECONDS, Worker

SECONDS = 3.0  # the head compiles it again, beside its work: what takes longer here is refused
KEPT = 64  # grammars: agents ask with the same format again and again


class ConfinedFormats:
    """Safe to use from several threads. Its process is started with the first format."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[Format, bool], str] = OrderedDict()

    def grammar(self, wish: Format, in_thought: bool) -> str:
        """As `FormatMaker.grammar`; raises what that does, and InvalidInput for what took too much."""
        with self._lock:
            if (wish, in_thought) not in self._made:
                if self._worker.started():  # what it does for its first grammar is not this one's time
                    self._ask(Format(schema="true"), False, LOAD_SECONDS)
                self._made[wish, in_thought] = self._ask(wish, in_thought, SECONDS)
            self._made.move_to_end((wish, in_thought))
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
            return self._made[wish, in_thought]

    def _ask(self, wish: Format, in_thought: bool, seconds: float) -> str:
        asked = {"do": "grammar", "format": dataclasses.asdict(wish), "in_thought": in_thought}
        found: str = self._worker.ask(asked, seconds, "for this format of the answer")
        return found

    def close(self) -> None:
        """From any thread."""
        self._worker.stop()
