"""Tokenizers as somebody would write them who means harm, made of a harmless one."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

from tests.support import tokenizer_files as files

ENDLESS = r"\s*[^\sa]|a+a+a+[^a]"  # for some thousand times "a" it takes longer than anybody lives


def endless() -> bytes:
    """Harmless for words without many "a"."""
    split = {"type": "Split", "pattern": {"Regex": ENDLESS}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, byte_level]})


def growing() -> bytes:
    """Each "q" becomes a million of "x"."""
    return changed(normalizer={"type": "Replace", "pattern": {"String": "q"}, "content": "x" * (1 << 20)})


def with_charsmap(characters: bytes | str, depth: int = 0) -> bytes:
    """`depth` sequences around it."""
    text = characters if isinstance(characters, str) else base64.b64encode(characters).decode()
    normalizer: dict[str, Any] = {"type": "Precompiled", "precompiled_charsmap": text}
    for _ in range(depth):
        normalizer = {"type": "Sequence", "normalizers": [{"type": "NFC"}, normalizer]}
    return changed(normalizer=normalizer)


def charsmap(trie: bytes, texts: bytes, size: int | None = None) -> bytes:
    return struct.pack("<I", len(trie) if size is None else size) + trie + texts


def changed(**parts: Any) -> bytes:
    return json.dumps({**json.loads(files.byte_level()), **parts}).encode()
