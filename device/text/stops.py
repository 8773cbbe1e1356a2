"""Cutting a stream of text at the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

from protos.errors import InvalidInput


class StopStrings:
    """Holds back what may be the beginning of a stop string; how the text is cut into pieces makes no difference.

    The stop string that is complete first ends the text, of two that end together the longer; it is not part of the text.
    Raises InvalidInput for an empty stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise InvalidInput("a stop string is empty", advice="leave it out")
        self._stops = tuple(stops)
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        return self._stopped

    def push(self, text: str, *, armed: bool = True) -> str:
        """The text that became certain; nothing once stopped. Unless `armed`, a stop string that is complete by now does not count."""
        if self._stopped:
            return ""
        text = self._held + text
        matches = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if matches and armed:
            self._stopped, self._held = True, ""
            return text[: min(matches)[1]]
        keep = self._unsure(text)
        certain, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return certain

    def finish(self) -> str:
        """What was held back, when the text ends without a stop string."""
        rest, self._held = self._held, ""
        return rest

    def _unsure(self, text: str) -> int:
        """The length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
