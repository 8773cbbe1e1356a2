from __future__ import annotations

import pytest

from protos.enrolment import WORDS, Token, new_token, parse_token, signed_text, words
from protos.errors import InvalidInput
from protos.ids import DeviceId

BOARD, OTHER = DeviceId("abcdefgh22334455"), DeviceId("abcdefgh22334456")


def test_a_fingerprint_is_five_words_that_differ_with_the_id() -> None:
    assert words(BOARD) == "diamond machine female mask zoo"
    assert len(words(OTHER).split()) == WORDS
    assert words(OTHER) != words(BOARD)


def test_a_token_is_one_word_and_comes_back() -> None:
    token = new_token(b"an authority's key")
    assert parse_token(f"  {token.text.upper()}\n") == token
    assert token.text.isascii()
    assert " " not in token.text
    assert token.secret.hex() not in repr(token)
    assert new_token(b"an authority's key").secret != token.secret


@pytest.mark.parametrize(
    "text", ["", "glmfleet-", "glmfleet-abc", "abc", "glmfleet-" + "a" * 77, "glmfleet-é" + "a" * 76, "glmfleet-" + "a" * 79]
)
def test_what_is_no_token_is_refused_without_being_repeated(text: str) -> None:
    if text == "glmfleet-" + "a" * 77:
        assert parse_token(text)  # the right length
        return
    with pytest.raises(InvalidInput, match="not an enrolment token") as refused:
        parse_token(text)
    assert not text or text not in str(refused.value)


def test_the_key_of_a_token_is_of_its_secret_alone() -> None:
    one, other = Token(bytes(16), b"a" * 32), Token(bytes(16), b"b" * 32)
    assert one.key_seed == other.key_seed != Token(b"x" * 16, b"a" * 32).key_seed
    assert len(one.key_seed) == 32


def test_what_is_signed_differs_with_device_and_nonce() -> None:
    texts = {signed_text(board, nonce) for board in (BOARD, OTHER) for nonce in (b"1" * 16, b"2" * 16)}
    assert len(texts) == 4
