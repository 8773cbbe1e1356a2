"""What a model thought before it answered, told apart from the answer while both come."""

from __future__ import annotations

from dataclasses import dataclass

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Piece:
    """Text that became certain. The newlines around tags, and before an answer, belong to neither."""

    thought: str = ""
    said: str = ""


class Thoughts:
    """Of one answer: <think>…</think> at its begin; or all before a </think>, where the prompt has opened the thought (`inside`), and where
    nothing of an answer was given out yet. How the text is cut into pieces makes no other difference.

    >>> thoughts = Thoughts()
    >>> thoughts.push("<think>2 + 2"), thoughts.push("</thi"), thoughts.push("nk>\\nFour.")
    (Piece(thought='2 + 2', said=''), Piece(thought='', said=''), Piece(thought='', said='Four.'))
    """

    def __init__(self, inside: bool = False) -> None:
        self._inside = inside
        self._begun = inside  # else it may still begin with a tag
        self._held = ""
        self._gave_thought = self._gave_answer = False

    def push(self, text: str) -> Piece:
        self._held += text
        return self._begin(last=False) if not self._begun else self._go_on(last=False)

    def finish(self) -> Piece:
        """What was held back, when no more text comes."""
        return self._begin(last=True) if not self._begun else self._go_on(last=True)

    def _begin(self, last: bool) -> Piece:
        text = self._held.lstrip()
        if OPEN.startswith(text) and not last:
            return Piece()
        self._begun = True
        if text.startswith(OPEN):
            self._inside, self._held = True, text[len(OPEN) :]
        elif CLOSE in text:
            self._inside = True
        return self._go_on(last)

    def _go_on(self, last: bool) -> Piece:
        if not self._inside:
            return Piece(said=self._answer())
        thought, close, rest = self._held.partition(CLOSE)
        if close:
            self._inside, self._held = False, rest
            return Piece(self._thought(thought.rstrip("\n")), self._answer())
        sure = len(thought.rstrip("\n")) if last else len(thought) - _unsure(thought)
        self._held = thought[sure:]
        return Piece(self._thought(thought[:sure]))

    def _thought(self, text: str) -> str:
        text = text if self._gave_thought else text.lstrip("\n")
        self._gave_thought = self._gave_thought or bool(text)
        return text

    def _answer(self) -> str:
        text, self._held = self._held, ""
        text = text if self._gave_answer else text.lstrip("\n")
        self._gave_answer = self._gave_answer or bool(text)
        return text


def thought_and_said(text: str, inside: bool = False) -> Piece:
    """Of a whole answer."""
    thoughts = Thoughts(inside)
    first, rest = thoughts.push(text), thoughts.finish()
    return Piece(first.thought + rest.thought, first.said + rest.said)


def _unsure(text: str) -> int:
    """The length of its end that may begin the closing tag, with the newlines before it."""
    tag = next((size for size in range(min(len(CLOSE) - 1, len(text)), 0, -1) if CLOSE.startswith(text[-size:])), 0)
    before = text[: len(text) - tag]
    return tag + len(before) - len(before.rstrip("\n"))
