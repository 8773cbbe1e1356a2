"""Whether a tokenizer.json's tables of characters (SentencePiece's precompiled_charsmap) are what they say.

The library believes the size that a table states of itself, and asks for gigabytes.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from typing import Any

from protos.errors import InvalidInput

_KEY = "precompiled_charsmap"
_DEEPEST = 32  # of normalizers in normalizers
_LEAF = 1 << 31


def check_charsmaps(tokenizer: bytes) -> None:
    """Of all normalizers, however nested. Raises InvalidInput for one that is none; what else is wrong with the file is not looked at."""
    if _KEY.encode() not in tokenizer and b"\\u00" not in tokenizer:  # most have none; a key may be escaped
        return
    try:
        plain = json.loads(tokenizer)
    except (ValueError, RecursionError):
        return  # the library says so
    level: list[Any] = [plain.get("normalizer")] if isinstance(plain, dict) else []
    for _ in range(_DEEPEST):
        level = [one for one in level if isinstance(one, dict)]
        for normalizer in level:
            if normalizer.get(_KEY) is not None:
                _check(normalizer[_KEY])
        level = [inner for one in level if isinstance(one.get("normalizers"), list) for inner in one["normalizers"]]
    if level:
        raise _refused(f"normalizers nested more than {_DEEPEST} deep")


def _check(charsmap: Any) -> None:
    """4 bytes for the trie's size; the trie, a word each; texts, each ending with a zero, of which its leaves say where they begin."""
    try:
        data = base64.b64decode(charsmap, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise _refused("it is not base64") from None
    (size,) = struct.unpack_from("<I", data) if len(data) >= 4 else (0,)
    if not size or size % 4 or 4 + size > len(data):
        raise _refused(f"its trie is said to take {size} bytes of {len(data)}")
    texts = data[4 + size :]
    try:
        texts.decode()
    except UnicodeDecodeError:
        raise _refused("its texts are not UTF-8") from None
    if any(word & _LEAF and word & ~_LEAF >= len(texts) for (word,) in struct.iter_unpack("<I", data[4 : 4 + size])):
        raise _refused("its trie points behind its texts")


def _refused(why: str) -> InvalidInput:
    return InvalidInput(
        f"the model's tokenizer.json has a {_KEY} that is none: {why}", advice="get the model from its maker, and import it again"
    )
