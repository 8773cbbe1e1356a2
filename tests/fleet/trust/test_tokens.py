"""Enrolment tokens: single use, expiring, and no use to whoever reads the fleet's file."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fleet.trust.tokens import Tokens, Verdict
from protos.enrolment import Token, signed_text
from protos.errors import Corrupt, InvalidInput, NotFound
from protos.ids import DeviceId

BOARD, OTHER = DeviceId("abcdefgh22334455"), DeviceId("abcdefgh22334456")
NONCE = b"n" * 16


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def shown(tokens: Tokens, token: Token, board: DeviceId = BOARD, nonce: bytes = NONCE, signed: bytes | None = None) -> Verdict:
    """What is said of a token that `board` shows, having signed `signed` (the right text if None)."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(token.key_seed)
    text = signed_text(board, nonce) if signed is None else signed
    return tokens.use(key.public_key().public_bytes_raw(), key.sign(text), board, nonce)


def test_a_token_is_good_for_one_board(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path, Clock())
    token, record = tokens.make(b"authority")
    assert shown(tokens, token) == "good"
    assert shown(tokens, token, nonce=b"m" * 16) == "good"  # the answer was lost: it asks again
    assert shown(tokens, token, OTHER) == "used"
    assert [(one.token_id, one.used_by) for one in tokens.all()] == [(record.token_id, BOARD)]


def test_it_expires_and_is_remembered_for_a_while(tmp_path: Path) -> None:
    clock = Clock()
    tokens = Tokens(tmp_path, clock)
    token, _ = tokens.make(b"authority", 60.0)
    clock.now += 60.0
    assert shown(tokens, token) == "expired"
    clock.now += 8 * 86400.0
    tokens.make(b"authority")
    assert shown(tokens, token) == "unknown"


def test_what_was_signed_for_another_is_forged(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path, Clock())
    token, _ = tokens.make(b"authority")
    for signed in (signed_text(OTHER, NONCE), signed_text(BOARD, b"x" * 16), b""):
        assert shown(tokens, token, signed=signed) == "forged"
    assert shown(tokens, token) == "good"  # nothing of it was used up


def test_another_fleets_token_is_unknown(tmp_path: Path) -> None:
    token, _ = Tokens(tmp_path / "a", Clock()).make(b"authority") if (tmp_path / "a").mkdir() is None else (None, None)
    (tmp_path / "b").mkdir()
    assert token is not None
    assert shown(Tokens(tmp_path / "b", Clock()), token) == "unknown"


def test_the_file_does_not_hold_what_joins(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path, Clock())
    token, _ = tokens.make(b"authority")
    stored = (tmp_path / "tokens.json").read_text()
    assert token.secret.hex() not in stored
    assert token.key_seed.hex() not in stored
    assert token.text not in stored
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600


def test_one_that_is_taken_back_is_unknown(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path, Clock())
    token, record = tokens.make(b"authority")
    tokens.revoke(record.token_id)
    assert shown(tokens, token) == "unknown"
    with pytest.raises(NotFound, match=record.token_id):
        tokens.revoke(record.token_id)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 31 * 86400.0, float("nan")])
def test_a_life_that_is_none_is_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(InvalidInput, match="a token for"):
        Tokens(tmp_path).make(b"authority", seconds)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"public_key": "zz"}]', "7"])
def test_a_damaged_file_lets_nobody_in(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(Corrupt, match=r"tokens\.json"):
        Tokens(tmp_path).all()
