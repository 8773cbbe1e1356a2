"""Token ids to text as they come, only as far as later ones cannot change it."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol


class Detokenizer(Protocol):
    """Of one answer. All that `push` and then `finish` return, joined, is what decoding all ids at once gives."""

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that became certain."""
        ...

    def finish(self) -> str:
        """The rest, when no more ids come."""
        ...


class ByteLevelDetokenizer:
    """For byte-level BPE: every token is bytes, so text is certain as soon as a UTF-8 character is whole.

    `token_bytes(id)` is b"" for tokens that are not text. Invalid bytes become U+FFFD as in the tokenizer's own decoder:
    Python and Rust both replace maximal subparts (Unicode 15 section 3.9, U+FFFD substitution).

    >>> euro = ByteLevelDetokenizer([b"5 ", b"\\xe2\\x82", b"\\xac"].__getitem__)
    >>> euro.push([0, 1]), euro.push([2]), euro.finish()
    ('5 ', '€', '')
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_ids: Iterable[int]) -> str:
        return self._decoder.decode(b"".join(self._token_bytes(one) for one in token_ids))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For any other decoder that looks at neighbours only: decodes what is pending together with the last tokens before it.

    `decode(ids)` is the tokenizer's own; `is_text(id)` is False for ids it leaves out; `is_open(id)` is True for tokens whose text may
    depend on the next (bytes of a character). A piece that does not fit its context is held back until it does, tried again
    only when twice as long, so the work stays linear.
    """

    _CONTEXT = 4

    def __init__(self, decode: Callable[[Sequence[int]], str], is_text: Callable[[int], bool], is_open: Callable[[int], bool]) -> None:
        self._decode = decode
        self._is_text = is_text
        self._is_open = is_open
        self._context: list[int] = []
        self._pending: list[int] = []
        self._try_at = 1

    def push(self, token_ids: Iterable[int]) -> str:
        return "".join(self._push(one) for one in token_ids if self._is_text(one))

    def finish(self) -> str:
        text = self._decode([*self._context, *self._pending])[len(self._decode(self._context)) :] if self._pending else ""
        self._context, self._pending = [], []
        return text

    def _push(self, token_id: int) -> str:
        self._pending.append(token_id)
        if self._is_open(token_id) or len(self._pending) < self._try_at:
            return ""
        before = self._decode(self._context)
        text = self._decode([*self._context, *self._pending])
        if not text.startswith(before) or text.endswith("\ufffd"):
            self._try_at = 2 * len(self._pending)
            return ""
        self._context = [*self._context, *self._pending][-self._CONTEXT :]
        self._pending, self._try_at = [], 1
        return text[len(before) :]
