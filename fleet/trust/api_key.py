"""The key of a home, and by which key a coordinator knows who calls."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import TypeAlias

from fleet.home import Home, write_private
from fleet.principal import LOCAL_ADMIN, Principal, Unauthenticated
from fleet.trust.keys import ApiKeys
from protos.errors import InvalidInput
from protos.modes import close_file

# Of an Authorization header, "" when there is none. Raises Unauthenticated, OverBudget.
Authenticate: TypeAlias = Callable[[str], Principal]


def read_key(home: Home) -> str | None:
    """The home's key, or None when it has none. Raises InvalidInput when its file is empty, cannot be read, or
    holds what an HTTP header cannot."""
    path = home.path / "api-key"
    close_file(path)
    try:
        key = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not text", advice="write a key of ASCII into it, or remove it to have one made") from error
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    if not key:
        raise InvalidInput(f"{path} is empty", advice="write a key into it, or remove it to have one made")
    if not (key.isascii() and key.isprintable()):
        raise InvalidInput(f"{path} has a key that no header can carry", advice="use ASCII letters and digits, in one line")
    return key


def ensure_key(home: Home) -> str:
    """The home's key; a fresh one (256 bits) when it has none."""
    key = read_key(home)
    if key is None:
        key = secrets.token_urlsafe(32)
        write_private(home.path / "api-key", key.encode())
    return key


def shown(home: Home) -> dict[str, str]:
    """The headers by which a client shows the home's key; none when it has none. Raises InvalidInput as `read_key`."""
    key = read_key(home)
    return {"Authorization": f"Bearer {key}"} if key else {}


def authenticator(home_key: str, keys: ApiKeys | None = None) -> Authenticate:
    """Says who a request is from: whoever shows the home's key is the local admin, others are who their key belongs to."""

    def authenticate(authorization: str) -> Principal:
        scheme, _, given = authorization.partition(" ")
        given = given.strip()
        if scheme.lower() != "bearer" or not given:
            raise Unauthenticated("this coordinator asks for an API key", "no_key")
        if hmac.compare_digest(given.encode(), home_key.encode()):  # takes as long whatever is given
            return LOCAL_ADMIN
        if keys is None:
            raise Unauthenticated("this key is not one of this fleet", "unknown_key")
        return keys.authenticate(given)

    return authenticate
