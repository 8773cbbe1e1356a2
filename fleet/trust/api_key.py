"""The key that clients of a coordinator show, kept in its home."""

from __future__ import annotations

import secrets

from fleet.home import Home, write_private
from protos.errors import InvalidInput


def read_key(home: Home) -> str | None:
    """The home's key, or None when it has none. Raises InvalidInput when its file is empty or cannot be read."""
    path = home.path / "api-key"
    try:
        key = path.read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    if not key:
        raise InvalidInput(f"{path} is empty", advice="write a key into it, or remove it to have one made")
    return key


def ensure_key(home: Home) -> str:
    """The home's key; a fresh one (256 bits) when it has none."""
    key = read_key(home)
    if key is None:
        key = secrets.token_urlsafe(32)
        write_private(home.path / "api-key", key.encode())
    return key
