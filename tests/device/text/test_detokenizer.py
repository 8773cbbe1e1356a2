"""Streaming text: the pieces joined are what decoding all at once gives, and nothing shown is taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.text.model import TextModel
from tests.support import tokenizer_files as files

BYTE_LEVEL = TextModel.load({"tokenizer.json": files.byte_level()}, [files.EOS], 1000)
SENTENCE_PIECE = TextModel.load({"tokenizer.json": files.sentence_piece()}, [2], 1000)
WORD_PIECE = TextModel.load({"tokenizer.json": files.word_piece()}, [], 1000)
A, WORD = 262, 263  # "▁a" and "▁word" of the second
SIZES = {"byte_level": (BYTE_LEVEL, 271), "sentence_piece": (SENTENCE_PIECE, 275), "word_piece": (WORD_PIECE, 14)}

# (kind, ids, how many go in each push): every id of the vocabulary and some beyond it.
streams = st.sampled_from(sorted(SIZES)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(st.integers(-1, SIZES[kind][1]), max_size=40), st.lists(st.integers(0, 5), max_size=40))
)


def pieces(model: TextModel, ids: list[int], cuts: list[int] | None = None) -> list[str]:
    stream = model.stream()
    shown, rest = [], list(ids)
    for size in cuts or []:
        shown.append(stream.push(rest[:size]))
        rest = rest[size:]
    shown.extend(stream.push([one]) for one in rest)
    return [*shown, stream.finish()]


@given(streams)
def test_the_pieces_joined_are_the_whole(stream: tuple[str, list[int], list[int]]) -> None:
    kind, ids, cuts = stream
    model = SIZES[kind][0]
    assert "".join(pieces(model, ids, cuts)) == model.decode(ids)


@given(st.text(max_size=30).filter(lambda text: "<" not in text))
def test_text_comes_back_through_byte_level_tokens(text: str) -> None:
    assert "".join(pieces(BYTE_LEVEL, BYTE_LEVEL.encode(text))) == text


@given(st.lists(st.integers(0, 255), max_size=30))
def test_any_bytes_decode_as_the_library_decodes_them(data: list[int]) -> None:
    """Invalid UTF-8 in every arrangement: the number of U+FFFD is the library's."""
    ids = [5 + byte for byte in data]
    assert BYTE_LEVEL.decode(ids) == bytes(data).decode("utf-8", "replace")
    assert "".join(pieces(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids)


def test_a_character_is_shown_when_it_is_whole() -> None:
    ids = [5 + byte for byte in "a€😀".encode()]
    assert pieces(BYTE_LEVEL, ids) == ["a", "", "", "€", "", "", "", "😀", ""]


def test_half_a_character_at_the_end_is_replaced() -> None:
    assert pieces(BYTE_LEVEL, [5 + 0xE2, 5 + 0x82]) == ["", "", "�"]


def test_special_tokens_ends_and_unknown_ids_are_no_text() -> None:
    hello = BYTE_LEVEL.encode("hello")
    assert pieces(BYTE_LEVEL, [files.BOS, *hello, files.THINK, files.IM_END, 10**7, -5, files.EOS])[1:4] == ["hello", "<a thought>", ""]


def test_the_first_space_is_not_lost_later() -> None:
    """Decoding "▁word" alone gives "word": the space is the tokenizer's own at the start, and text everywhere else."""
    assert pieces(SENTENCE_PIECE, [1, WORD, A, WORD]) == ["", "word", " a", " word", ""]


def test_bytes_of_a_fallback_are_held_until_they_cannot_change() -> None:
    """<0xC3><0xA9> is é, but with another <0xC3> all three are U+FFFD: nothing is certain before the run of bytes ends."""
    assert pieces(SENTENCE_PIECE, [3 + 0xC3, 3 + 0xA9, WORD]) == ["", "", "é word", ""]
    assert pieces(SENTENCE_PIECE, [3 + 0xC3, 3 + 0xA9, 3 + 0xC3, WORD]) == ["", "", "", "��� word", ""]
    assert pieces(SENTENCE_PIECE, [3 + 0xC3, 3 + 0xA9]) == ["", "", "é"]


def test_word_pieces_are_spaced_as_the_whole_is() -> None:
    ids = WORD_PIECE.encode("hello world.")
    assert "".join(pieces(WORD_PIECE, ids)) == WORD_PIECE.decode(ids)
    assert pieces(WORD_PIECE, ids)[:2] == ["hello", " world"]


@pytest.mark.parametrize("model", [BYTE_LEVEL, SENTENCE_PIECE, WORD_PIECE])
def test_the_work_grows_with_the_length_only(model: TextModel) -> None:
    """Counted in ids handed to the library's decode, where the naive way has 20,000,000."""
    decoded = 0
    stream = model.stream()
    if hasattr(stream, "_decode"):
        inner = stream._decode

        def counting(ids: list[int]) -> str:
            nonlocal decoded
            decoded += len(ids)
            return str(inner(ids))

        stream._decode = counting
    for _ in range(2000):
        stream.push([7, 9, 8])
    stream.finish()
    assert decoded <= 2000 * 3 * 20
