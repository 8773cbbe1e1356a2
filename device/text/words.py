"""How a model's token ids are written: all that an answer needs of its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from tokenizers import decoders

from device.text.bytelevel import ByteTable, is_byte_level, token_bytes
from device.text.detokenizer import ByteLevelDetokenizer, Detokenizer, WindowDetokenizer
from device.text.thoughts import OPEN
from device.vocabulary import Vocabulary
from protos.errors import Corrupt

_TAIL = 16  # tokens of a prompt, in which a template's last words are
_MOST_DECODERS = 16
_DECODERS = frozenset({"ByteLevel", "WordPiece", "Metaspace", "BPEDecoder", "CTC", "Fuse", "Strip", "Replace", "ByteFallback", "Sequence"})


class Words:
    """Immutable, and safe to use from several threads. Made of plain data, so that a process that made them can hand them to another."""

    def __init__(self, tokens: Mapping[int, str], skipped: Iterable[int], decoder: Mapping[str, Any]) -> None:
        """`tokens`: all of them; `skipped`: those that are no text. `decoder` is tokenizer.json's, {} for none. Raises Corrupt."""
        _check(decoder)
        self._tokens = tokens
        self._skipped = frozenset(skipped)
        self._plain = decoder
        self._decoder = _made(decoder)
        self._bytes = ByteTable(tokens, self._skipped) if is_byte_level(decoder) else None

    def as_plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        skipped = sorted(self._skipped)
        return {"ids": list(self._tokens), "texts": list(self._tokens.values()), "skipped": skipped, "decoder": self._plain}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Self:
        return cls(dict(zip(plain["ids"], plain["texts"], strict=True)), plain["skipped"], plain["decoder"])

    @property
    def longest(self) -> int:
        """Characters of the longest token."""
        return max(map(len, self._tokens.values()), default=0)

    def token(self, token_id: int) -> str:
        """A token as it is written in a prompt; "" for a number that is none."""
        return self._tokens.get(token_id, "")

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for behind others: text, or a part of a character; of one that is no text, how it is written."""
        token = self.token(token_id)
        if not self._is_text(token_id):
            return token.encode()
        if self._bytes is not None:
            return token_bytes(token)
        if self._is_byte(token_id):
            return bytes([int(token[3:5], 16)])
        before, both = self._decoded([self._anchor]), self._decoded([self._anchor, token_id])
        return both[len(before) :].encode() if both.startswith(before) else token.replace("▁", " ").encode()

    def vocabulary(self, size: int, ends: Iterable[int]) -> Vocabulary:
        """Of a model of so many tokens, for grammars; takes some tenths of a second."""
        tokens = [self.token_bytes(one) for one in range(size)]
        return Vocabulary(tokens, sorted(one for one in self._skipped if one < size), sorted(ends))

    @cached_property
    def _anchor(self) -> int:
        """A token that stays as it is, whatever comes behind it."""
        return min((one for one, text in self._tokens.items() if self._is_text(one) and text.isalpha()), default=0)

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of all ids at once; special tokens, ends of sequence and unknown ids give none."""
        return self._decoded([one for one in token_ids if self._is_text(one)])

    def stream(self) -> Detokenizer:
        """A fresh one for one answer; its pieces joined are `decode` of all."""
        if self._bytes is not None:
            return ByteLevelDetokenizer(self._bytes.of)
        return WindowDetokenizer(self.decode, self._is_text, self._is_byte)

    def opens_thought(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the prompt ends with <think> right behind a control token, as templates write it: the answer goes on inside."""
        text = self._decoded(prompt_ids[-_TAIL:]).rstrip()
        before = text.removesuffix(OPEN).rstrip()
        tokens = filter(None, map(self.token, self._skipped))  # a number that is no token is ""
        return text.endswith(OPEN) and before.endswith(tuple(tokens))

    def _decoded(self, token_ids: Iterable[int]) -> str:
        tokens = [self._tokens[one] for one in token_ids if one in self._tokens]
        return " ".join(tokens) if self._decoder is None else self._decoder.decode(tokens)

    def _is_text(self, token_id: int) -> bool:
        return token_id not in self._skipped and token_id in self._tokens

    def _is_byte(self, token_id: int) -> bool:
        """Whether it is a byte-fallback token, "<0x0A>"."""
        token = self.token(token_id)
        return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _made(decoder: Mapping[str, Any]) -> decoders.Decoder | None:
    """The library's own."""
    if not decoder:
        return None
    made = decoders.Fuse()
    made.__setstate__(json.dumps(decoder).encode())
    return made


def _check(decoder: Mapping[str, Any]) -> None:
    """Raises Corrupt for one whose work or text is not bounded by the tokens': it runs where all answers are written."""
    parts: list[Any] = [decoder] if decoder else []
    for part in parts:  # which grows
        kind = part.get("type")
        if kind == "Sequence":
            parts += part.get("decoders") or ()
        if kind not in _DECODERS or len(parts) > _MOST_DECODERS or (kind == "Replace" and _lengthens(part)) or part.get("suffix") == "":
            raise Corrupt(
                f"the model's tokenizer.json cannot be read: its decoder has a {str(kind)[:40]} that no model needs",
                advice="get the model from its maker, and import it again",
            )


def _lengthens(part: Mapping[str, Any]) -> bool:
    """A plain text in the place of one that is no shorter is what models have; a regular expression may take any time."""
    pattern, content = part["pattern"].get("String"), part["content"]
    return not isinstance(pattern, str) or len(content.encode()) > len(pattern.encode())
