"""An answer as it comes: what is said on stdout, what the model thought before on stderr, dim on a terminal."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass

from device.text.thoughts import Piece, Thoughts
from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.client import CoordinatorClient
from fleet.cli.output import note
from fleet.cli.streams import silence
from protos.errors import FleetError, Internal

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class Gap:
    """What stands before and behind an answer, whether it is empty or not; `begun`: the line has text already."""

    before: str
    after: str
    begun: bool


def stream_answer(coordinator: CoordinatorClient, request: GenerateRequest, *, echo: bool, gap: Gap | None = None) -> GenerateResult:
    """Print the text as it comes, on a line of its own or in its `gap`, and return the result. Only what went through the chat template is
    told apart from a thought: a raw text is shown as it is.

    KeyboardInterrupt cancels the sequence on its way out.
    """
    shown = _Shown(gap, apart=request.prompt is not None or bool(request.messages)) if echo else None
    coordinator.lost = _told
    with closing(coordinator.generate(request)) as parts:
        try:
            for part in parts:
                if isinstance(part, GenerateResult):
                    if shown:
                        shown.finish()
                    return part
                if shown:
                    shown.push(part.text, part.in_thought)
        finally:
            if shown:
                shown.close()
    raise Internal("the answer ended without a result")


def _told(lost: FleetError) -> None:
    note(f"\n({lost.detail}: the answer goes on when it is back)")  # behind a text that has not ended


class _Shown:
    def __init__(self, gap: Gap | None, *, apart: bool) -> None:
        self._gap = gap
        self._before = gap.before if gap else ""
        self._end = "\n"
        self._written = gap is not None and gap.begun
        self._apart = apart
        self._thoughts: Thoughts | None = None
        self._thinking = False  # the line on stderr is not ended

    def push(self, text: str, in_thought: bool) -> None:
        if not self._apart:
            self._show(Piece(said=text))
            return
        if self._thoughts is None:
            self._thoughts = Thoughts(in_thought)
        self._show(self._thoughts.push(text))

    def finish(self) -> None:
        """What was held back, and what stands behind the answer."""
        if self._thoughts:
            self._show(self._thoughts.finish())
        if self._gap:
            self._say("")
            self._end = self._gap.after

    def close(self) -> None:
        self._end_thought()
        if self._written:
            sys.stdout.write(self._end)
            sys.stdout.flush()

    def _show(self, piece: Piece) -> None:
        if piece.thought:
            self._thinking = True
            _aside(piece.thought)
        if piece.said or self._gap:
            self._end_thought()
            self._say(piece.said)

    def _say(self, text: str) -> None:
        before, self._before = self._before, ""
        self._written = True  # first: Ctrl-C may come as soon as the text is out
        sys.stdout.write(before + text)
        sys.stdout.flush()

    def _end_thought(self) -> None:
        if self._thinking:
            self._thinking = False
            _aside("\n")


def _aside(text: str) -> None:
    """On stderr; that nobody takes it ends no answer. Each piece is made plain again, whatever comes between."""
    dim = sys.stderr.isatty() and text.strip()
    try:
        sys.stderr.write(f"{_DIM}{text}{_PLAIN}" if dim else text)
        sys.stderr.flush()
    except OSError:
        silence(sys.stderr)
