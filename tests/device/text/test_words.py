"""What single tokens stand for."""

from __future__ import annotations

import pytest

from device.text.model import TextModel
from tests.support import tokenizer_files as files


@pytest.mark.parametrize("made", [files.byte_level, files.sentence_piece, files.word_piece])
def test_the_bytes_of_an_answers_tokens_are_its_text(made: object) -> None:
    tokenizer = made()  # type: ignore[operator]
    model = TextModel.load({"tokenizer.json": tokenizer}, [], files.vocab_size(tokenizer))
    first, *behind = model.encode("hello hello hello")
    words = model.words
    tail = b"".join(words.token_bytes(one) for one in behind)
    assert model.decode([first, *behind]).encode() == model.decode([first]).encode() + tail


def test_a_part_of_a_character_is_bytes_and_a_control_token_is_what_is_written() -> None:
    tokenizer = files.byte_level()
    model = TextModel.load({"tokenizer.json": tokenizer}, [files.EOS], files.vocab_size(tokenizer))
    euro = [model.words.token_bytes(one) for one in model.encode("€")]
    assert b"".join(euro) == "€".encode()
    assert model.words.token_bytes(files.EOS) == model.words.token(files.EOS).encode()
    assert model.words.token_bytes(1 << 30) == b""
