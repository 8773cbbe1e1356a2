"""GLM-4's tokenizer where it comes without a tokenizer.json: tiktoken's ranks, a base64 token and its number per line."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from protos.errors import InvalidInput
from quantize.checkpoints.bpe import CL100K, AddedToken, byte_characters, byte_level_bpe

RANKS_FILE = "tokenizer.model"
_MOST_TOKENS = 1 << 20
_LONGEST_TOKEN_BYTES = 512  # cl100k's longest has 128
# What ChatGLM4Tokenizer.get_prefix_tokens puts before every prompt.
_PREFIX = ("[gMASK]", "<sop>")


def tokenizer_of_ranks(data: bytes, settings: Mapping[str, Any]) -> bytes:
    """tokenizer.json of the file and of tokenizer_config.json, which lists the special tokens. Raises InvalidInput.

    tiktoken joins the two neighbours whose bytes together have the lowest rank, so every way to cut a token into two others is a merge
    of its rank.
    """
    ranks = _ranks(data)
    added = _added(settings, len(ranks))
    characters = byte_characters()
    texts = {token: "".join(characters[byte] for byte in token) for token in ranks}
    vocabulary = {texts[token]: rank for token, rank in ranks.items()}
    known = {token.text: token for token in added}
    prefix = [known[text] for text in _PREFIX if text in known]
    merges = ((texts[left], texts[right]) for left, right in _merges(ranks))
    return byte_level_bpe(vocabulary, merges, added, pattern=CL100K, whole_words=True, prefix=prefix if len(prefix) == 2 else ())


def _ranks(data: bytes) -> dict[bytes, int]:
    """Tokens in the order of their ranks, which are 0 to the last."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.split(b"\n")):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split()
            token, place = base64.b64decode(encoded, validate=True), int(rank)
        except (ValueError, binascii.Error):
            _wrong(
                f"line {number + 1} is no base64 token and its rank",
            )
        if place != len(ranks) or not token or token in ranks or len(token) > _LONGEST_TOKEN_BYTES or place >= _MOST_TOKENS:
            _wrong(f"line {number + 1} is empty, out of order or repeated")
        ranks[token] = place
    if any(bytes([byte]) not in ranks for byte in range(256)):
        _wrong("a byte has no token")
    return ranks


def _merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    for token in ranks:
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        yield from sorted(
            ((left, right) for left, right in cuts if left in ranks and right in ranks), key=lambda pair: (ranks[pair[0]], ranks[pair[1]])
        )


def _added(settings: Mapping[str, Any], first: int) -> list[AddedToken]:
    listed = settings.get("added_tokens_decoder")
    if not isinstance(listed, dict) or not listed:
        raise InvalidInput(
            "tokenizer_config.json has no added_tokens_decoder", advice="it lists the special tokens: get the checkpoint again"
        )
    added = []
    for number, token in listed.items():
        text = token.get("content") if isinstance(token, dict) else None
        if not (number.isdecimal() and len(number) < 10 and first <= int(number) < _MOST_TOKENS and isinstance(text, str) and text):
            raise InvalidInput(f"tokenizer_config.json: added token {number[:20]!r} cannot be", advice="get the checkpoint again")
        added.append(AddedToken(int(number), text, token.get("special") is not False))
    return added


def _wrong(what: str, advice: str = "get the checkpoint again") -> NoReturn:
    raise InvalidInput(f"{RANKS_FILE}: {what}", advice=advice)
