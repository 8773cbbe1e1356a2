"""SentencePiece's tokenizer.model as a tokenizer.json: the ids that SentencePiece gives (tests/goldens/chatglm.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import tokenizers

from protos.errors import InvalidInput
from quantize.checkpoints.bpe import AddedToken
from quantize.checkpoints.sentencepiece_file import Kind, Normalizer, Piece, SentencePieces, is_sentencepiece, read_sentencepiece
from quantize.checkpoints.sentencepiece_tokenizer import tokenizer_of_pieces
from tests.support.goldens import golden_folder

FOLDER = golden_folder("chatglm3")
MODEL = (FOLDER / "tokenizer.model").read_bytes()
TEXTS: list[tuple[str, list[int]]] = json.loads((FOLDER / "texts.json").read_text())


def _tokenizer(model: SentencePieces, special: tuple[AddedToken, ...] = ()) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_of_pieces(model, special).decode())
    tokenizer.encode_special_tokens = True  # SentencePiece takes no text for a control piece
    return tokenizer


def test_ids_are_sentencepieces_and_give_the_text_back() -> None:
    tokenizer = _tokenizer(read_sentencepiece(MODEL))
    assert len(TEXTS) > 50
    for text, ids in TEXTS:
        assert tokenizer.encode(text).ids == ids, repr(text)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text.replace("▁", " ")


def test_the_file_is_read() -> None:
    model = read_sentencepiece(MODEL)
    assert [piece.kind for piece in model.pieces[:4]] == [Kind.UNKNOWN, Kind.CONTROL, Kind.CONTROL, Kind.BYTE]
    assert [piece.text for piece in model.pieces[:4]] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert (len(model.pieces), model.byte_fallback, model.normalizer) == (400, True, Normalizer(b"", True, False))
    assert is_sentencepiece(MODEL)
    assert not is_sentencepiece(b"IQ== 0\n")
    assert not is_sentencepiece(b"")


def _pieces(*texts: str, kind: Kind = Kind.NORMAL) -> tuple[Piece, ...]:
    """Joined in this order, as trained ones are."""
    return tuple(Piece(text, -float(number), kind) for number, text in enumerate(texts))


BASE = (Piece("<unk>", 0.0, Kind.UNKNOWN), Piece("<s>", 0.0, Kind.CONTROL), *_pieces("▁a", "ab", "aa", "▁", "a", "b"))


def _cut(model: SentencePieces, text: str) -> list[str]:
    return list(_tokenizer(model).encode(text).tokens)


def test_the_highest_score_is_joined_first() -> None:
    assert _cut(SentencePieces(BASE, False, Normalizer()), "aab") == ["▁a", "ab"]
    others = (*BASE[:2], *_pieces("ab", "aa", "▁a", "▁", "a", "b"))
    assert _cut(SentencePieces(others, False, Normalizer()), "aab") == ["▁a", "ab"]
    assert _cut(SentencePieces((*BASE[:2], *_pieces("aa", "ab", "▁a", "▁", "a", "b")), False, Normalizer()), "aab") == ["▁", "aa", "b"]


def test_what_is_unknown_is_one_token_however_long() -> None:
    assert _cut(SentencePieces(BASE, False, Normalizer()), "axyz") == ["▁a", "<unk>"]


def test_spaces_are_kept_or_not_as_the_file_says() -> None:
    kept, removed, bare = (SentencePieces(BASE, False, Normalizer(b"", *how)) for how in ((True, False), (True, True), (False, False)))
    assert _cut(kept, " a  b ") == ["▁", "▁a", "▁", "▁", "b", "▁"]
    assert _cut(removed, " a  b ") == ["▁a", "▁", "b"]
    assert _cut(removed, "  ") == []
    assert _cut(bare, "a b") == ["a", "▁", "b"]
    assert _tokenizer(bare).decode([5, 6]) == " a"
    assert _tokenizer(kept).decode([5, 6]) == "a"


def test_symbols_stand_apart_and_no_space_is_put_behind_them() -> None:
    model = SentencePieces((*BASE, *_pieces("ab a", "<n>", kind=Kind.USER_DEFINED)), False, Normalizer())
    model = SentencePieces(tuple(Piece(p.text.replace(" ", "▁"), p.score, p.kind) for p in model.pieces), False, Normalizer())
    assert _cut(model, "a<n>ab ab") == ["▁a", "<n>", "ab▁a", "b"]


def test_unused_pieces_come_of_no_join() -> None:
    model = SentencePieces((*BASE, Piece("bb", 9.0, Kind.UNUSED)), False, Normalizer())
    assert _cut(model, "bb") == ["▁", "b", "b"]


def test_a_text_behind_a_special_token_is_one_of_its_own() -> None:
    model = SentencePieces(BASE, False, Normalizer())
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_of_pieces(model, (AddedToken(len(BASE), "<x>"),)).decode())
    assert tokenizer.encode("a<x>a<x>").ids == [2, len(BASE), 2, len(BASE)]


def _message(*fields: tuple[int, int, Any]) -> bytes:
    """(number, wire type, value): protobuf's encoding, https://protobuf.dev/programming-guides/encoding."""
    return b"".join(_field(*field) for field in fields)


def _field(number: int, wire: int, value: Any) -> bytes:
    return bytes(_varint(number << 3 | wire)) + (bytes(_varint(len(value))) + value if wire == 2 else bytes(_varint(value)))


def _varint(value: int) -> Iterator[int]:
    while value > 127:
        yield value & 127 | 128
        value >>= 7
    yield value


def _piece(text: str, *more: tuple[int, int, Any]) -> tuple[int, int, bytes]:
    return 1, 2, _message((1, 2, text.encode()), *more)


BPE = (2, 2, _message((3, 0, 2)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff\xff\xff", "is neither SentencePiece's nor tiktoken's"),
        (MODEL[:-3], "is neither SentencePiece's nor tiktoken's"),
        (b"", "of type unigram is not supported"),
        (_message(_piece("▁"), (2, 2, _message((3, 0, 1)))), "of type unigram is not supported, only BPE"),
        (_message(_piece("▁"), (2, 2, _message((3, 0, 77)))), "of type 77 is not supported"),
        (_message(_piece("▁"), (2, 2, _message((3, 0, 2), (24, 0, 1)))), "keeps white space otherwise"),
        (_message(_piece("▁"), BPE, (3, 2, _message((5, 0, 0)))), "keeps white space otherwise"),
        (_message(BPE), "pieces are none, empty, repeated"),
        (_message(_piece("▁"), _piece("▁"), BPE), "pieces are none, empty, repeated"),
        (_message(_piece(""), BPE), "pieces are none, empty, repeated"),
        (_message((1, 2, b"\x0a\x01a\x15\x00\x00\xc0\x7f"), BPE), "or have no score"),
        (_message(_piece("▁", (3, 0, 9)), BPE), "has a piece of kind 9, which is none"),
        (_message((1, 2, b"\x0a\x02\xff\xfe"), BPE), "is neither SentencePiece's"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_such_file_or_cuts_otherwise(data: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        read_sentencepiece(data)
    assert caught.value.advice
