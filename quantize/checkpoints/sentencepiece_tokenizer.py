"""SentencePiece's pieces as a tokenizer.json: made once, at import, so that nothing that answers requests needs SentencePiece.

SentencePiece joins the neighbours whose piece has the highest score, so every way to cut a piece into two others is a merge, in the
order of scores. (Of two overlapping joins of one score it takes the left one, which `tokenizers` cannot be told; the scores of a trained
model are all different.)
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from protos.errors import InvalidInput
from quantize.checkpoints.bpe import AddedToken, added_tokens, around
from quantize.checkpoints.sentencepiece_file import MODEL_FILE, Kind, Normalizer, SentencePieces

# What SentencePiece writes for a space.
SPACE = "▁"


def tokenizer_of_pieces(model: SentencePieces, special: Sequence[AddedToken], prefix: Sequence[AddedToken] = ()) -> bytes:
    """The file's bytes. `special` are tokens beyond the pieces, numbered from their count on; `prefix` is put before a raw prompt.

    A text behind a special token is normalized as one of its own, and so begins with a space, as where each is encoded alone.
    """
    control = [AddedToken(n, piece.text) for n, piece in enumerate(model.pieces) if piece.kind in (Kind.CONTROL, Kind.UNKNOWN)]
    symbols = sorted((piece.text for piece in model.pieces if piece.kind is Kind.USER_DEFINED), key=len, reverse=True)
    plain = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens([*control, *special]),
        "normalizer": _normalizer(model.normalizer),
        "pre_tokenizer": _symbols_apart(symbols) if symbols else None,
        "post_processor": around(prefix),
        "decoder": _decoder(model.normalizer),
        "model": _bpe(model, whole_words=bool(symbols)),
    }
    return json.dumps(plain, ensure_ascii=False, sort_keys=True).encode()


def _bpe(model: SentencePieces, *, whole_words: bool) -> dict[str, object]:
    """`whole_words`: what is a piece is taken whole, whatever the merges say, which only symbols that stand apart need."""
    numbers = {piece.text: number for number, piece in enumerate(model.pieces)}
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": _unknown(model),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": whole_words,
        "vocab": numbers,
        "merges": [list(merge) for merge in _merges(model, numbers)],
    }


_LONGEST_PIECE = 128  # characters; those of ChatGLM have up to 16


def _merges(model: SentencePieces, numbers: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The longest left half first: where a run of one character is joined from the left, that is the join that comes about."""
    joined = [piece for piece in model.pieces if piece.kind is Kind.NORMAL and len(piece.text) > 1]
    if max((len(piece.text) for piece in joined), default=0) > _LONGEST_PIECE:  # each may be joined in as many ways as it is long
        raise InvalidInput(f"{MODEL_FILE} has a piece of more than {_LONGEST_PIECE} characters", advice="get the checkpoint again")
    for piece in sorted(joined, key=lambda piece: (-piece.score, numbers[piece.text])):
        for at in range(len(piece.text) - 1, 0, -1):
            left, right = piece.text[:at], piece.text[at:]
            if left in numbers and right in numbers and {model.pieces[numbers[half]].kind for half in (left, right)} == {Kind.NORMAL}:
                yield left, right


def _unknown(model: SentencePieces) -> str | None:
    return next((piece.text for piece in model.pieces if piece.kind is Kind.UNKNOWN), None)


def _normalizer(normalizer: Normalizer) -> dict[str, object]:
    steps: list[dict[str, object]] = []
    if normalizer.characters:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(normalizer.characters).decode()})
    if normalizer.remove_extra_spaces:
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if normalizer.add_space:
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return {"type": "Sequence", "normalizers": steps}


def _symbols_apart(symbols: Sequence[str]) -> dict[str, object]:
    pattern = "|".join(re.escape(symbol) for symbol in symbols)
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _decoder(normalizer: Normalizer) -> dict[str, object]:
    steps: list[dict[str, object]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if normalizer.add_space:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}
