"""The bytes that byte-level BPE tokens stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def byte_alphabet() -> dict[str, int]:
    """GPT-2's map of printable characters to bytes: bytes that print stand for themselves, the rest follow from U+0100 on.

    Source: openai/gpt-2, src/encoder.py, bytes_to_unicode.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def is_byte_level(decoder: Mapping[str, Any]) -> bool:
    """Whether a decoder, as tokenizer.json has it, is the byte-level one and nothing else."""
    if decoder.get("type") == "Sequence" and len(decoder["decoders"]) == 1:
        decoder = decoder["decoders"][0]
    return bool(decoder.get("type") == "ByteLevel")


class ByteTable:
    """Bytes by token id, looked up once each."""

    def __init__(self, tokens: Mapping[int, str], skipped: frozenset[int]) -> None:
        self._tokens = tokens
        self._known: dict[int, bytes] = dict.fromkeys(skipped, b"")

    def of(self, token_id: int) -> bytes:
        """b"" for skipped ids and ids of no token."""
        found = self._known.get(token_id)
        if found is None:
            token = self._tokens.get(token_id)
            if token is None:
                return b""  # not kept: anybody may send any number
            found = self._known[token_id] = token_bytes(token)
        return found


def token_bytes(token: str) -> bytes:
    """As the library's decoder has it: a token with any character outside the alphabet (an added one) stands for its own UTF-8."""
    try:
        return bytes(_ALPHABET[character] for character in token)
    except KeyError:
        return token.encode()


_ALPHABET = byte_alphabet()
