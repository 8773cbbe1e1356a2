"""Which artifacts a publisher vouches for: what is signed, and how it is judged (after the targets role of TUF)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from protos.errors import Denied
from protos.ids import Digest, parse_digest

KEY_BYTES = 32
MOST_BYTES = 64 << 10  # of a statement
MOST_MANIFESTS = 8
_KIND = "glmfleet model 1"  # a signature over anything else is of no use here
SIGN_ANEW = "sign it anew where the publisher's key is: glmfleet model sign"


@dataclass(frozen=True)
class Statement:
    """These manifests, and no others, are model `model`, until `expires` (unix seconds). A higher `version` takes its place."""

    model: str
    version: int
    expires: float
    manifests: tuple[Digest, ...]  # the newest first

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        plain = {"kind": _KIND, "model": self.model, "version": self.version, "expires": self.expires, "manifests": self.manifests}
        return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class SignedStatement:
    """`publisher` is the public key, `signature` over `statement` by it (Ed25519)."""

    statement: bytes
    publisher: bytes
    signature: bytes


def parse(data: bytes) -> Statement:
    """Of bytes whose signature has been checked. Raises Denied when they are no statement."""
    if len(data) > MOST_BYTES:
        raise Denied(f"a publisher's statement of {len(data)} bytes; {MOST_BYTES} at most")
    try:
        plain = json.loads(data)
        statement = Statement(
            str(plain["model"]),
            int(plain["version"]),
            float(plain["expires"]),
            tuple(parse_digest(digest) for digest in plain["manifests"]),
        )
        right = plain["kind"] == _KIND and 0 < len(statement.manifests) <= MOST_MANIFESTS and math.isfinite(statement.expires)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise Denied("its publisher signed what is no statement of a model") from error
    if not right:
        raise Denied("its publisher signed what is no statement of a model")
    return statement


def check(statement: Statement, newest: int, now: float) -> None:
    """Raises Denied for one that is older than version `newest`, or that has expired by `now` (unix seconds)."""
    if statement.version < newest:
        raise Denied(
            f"its publisher has said version {newest} of {statement.model} here before; this is version {statement.version}",
            advice=f"an older one is wanted after all? {SIGN_ANEW} {statement.model} --above {newest}",
        )
    if now >= statement.expires:
        raise Denied(f"what its publisher said of {statement.model} has expired", advice=f"{SIGN_ANEW} {statement.model}")
