"""The key of a home, made, read, shown and known again."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.home import Home
from fleet.principal import LOCAL_ADMIN, Unauthenticated
from fleet.trust.api_key import authenticator, ensure_key, read_key, shown
from protos.errors import InvalidInput


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path)


def test_the_key_is_made_once(home: Home) -> None:
    assert read_key(home) is None
    key = ensure_key(home)
    assert len(key) >= 40
    assert ensure_key(home) == read_key(home) == key
    (home.path / "api-key").write_text("\n")
    with pytest.raises(InvalidInput, match="is empty"):
        read_key(home)


@pytest.mark.parametrize("key", [b"caf\xe9", "schl\u00fcssel".encode(), b"two\nlines", b"a\x00b"])
def test_a_key_that_no_header_can_carry_is_refused(home: Home, key: bytes) -> None:
    (home.path / "api-key").write_bytes(key)
    with pytest.raises(InvalidInput, match=r"is not text|no header can carry"):
        read_key(home)


def test_what_a_client_of_the_home_shows_is_known(home: Home) -> None:
    assert shown(home) == {}
    authenticate = authenticator(ensure_key(home))
    assert authenticate(shown(home)["Authorization"]) == LOCAL_ADMIN


@pytest.mark.parametrize("given", ["Bearer secret", "bearer secret", "BEARER  secret "])
def test_the_key_is_known_however_the_scheme_is_written(given: str) -> None:
    assert authenticator("secret")(given) == LOCAL_ADMIN


@pytest.mark.parametrize("given", ["", "secret", "Bearer", "Bearer ", "Bearer wrong", "Basic secret", "Bearer secret2", "Bearer sécret"])
def test_whatever_else_is_nobody(given: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        authenticator("secret")(given)
    assert caught.value.reason == ("no_key" if given.lower() in ("", "secret", "bearer", "bearer ", "basic secret") else "unknown_key")
