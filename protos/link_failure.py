"""Why gRPC could not connect, or lost a connection, read out of its words: it has no field for it."""

from __future__ import annotations

from enum import Enum


class LinkFailure(Enum):
    """The value says it in a few plain words."""

    REFUSED = "connection refused (nobody listens there)"
    UNREACHABLE = "there is no way to it on this machine's network"
    UNRESOLVED = "no address is known for that name"
    BROKEN = "the connection broke"
    ANOTHER_MEMBER = "TLS failed: another device of the fleet answers there"
    ANOTHER_AUTHORITY = "TLS failed: the certificate there is of another fleet"
    NOT_VALID_NOW = "TLS failed: the certificate there has expired, or is not valid yet"
    TLS = "TLS failed: what answers there does not speak it as we do"


# The first whose words (in small letters) occur: those of a handshake that failed end in the reason. As gRPC 1.85 says it.
_WORDS = (
    ("connection refused", LinkFailure.REFUSED),
    ("network is unreachable", LinkFailure.UNREACHABLE),
    ("no route to host", LinkFailure.UNREACHABLE),
    ("errors resolving", LinkFailure.UNRESOLVED),
    ("dns resolution failed", LinkFailure.UNRESOLVED),
    ("socket closed", LinkFailure.BROKEN),
    ("connection reset", LinkFailure.BROKEN),
    ("stream removed", LinkFailure.BROKEN),
    ("hostname verification check failed", LinkFailure.ANOTHER_MEMBER),
    ("certificate has expired", LinkFailure.NOT_VALID_NOW),
    ("certificate is not yet valid", LinkFailure.NOT_VALID_NOW),
    ("certificate_verify_failed", LinkFailure.ANOTHER_AUTHORITY),
    ("handshake failed", LinkFailure.TLS),
    ("connect failed: addr", LinkFailure.UNREACHABLE),  # whatever else the kernel has against the address
)


def link_failure(words: str) -> LinkFailure | None:
    """What gRPC means by the details of a status of its own making; None when it is nothing of a link."""
    said = words.lower()
    return next((failure for sign, failure in _WORDS if sign in said), None)
