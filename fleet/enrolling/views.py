"""What the API and the command show of boards that ask to join."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EnrolmentView:
    """A board that asks to be of the fleet. All but id, fingerprint and address are its own words."""

    device_id: str
    name: str
    fingerprint: str  # five words, which the board's own screen shows too
    address: str
    profile: str
    agent_version: str
    found_by: str
    detail: str = ""  # why its token was refused, one line
    reason: str = ""  # the same for programs: "token_expired"


@dataclass(frozen=True)
class DepartureView:
    """A device that is of the fleet no more. `wiped`: it has said that it removes its models and its key. `used_by`: the deployments that
    had stages on it."""

    device_id: str
    name: str
    wiped: bool
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenView:
    """An enrolment token. `token` is told once, when it is made; times are unix seconds."""

    token_id: str
    expires: float
    used_by: str = ""  # a device's id
    token: str = ""


@dataclass(frozen=True)
class InvitationView:
    """What a board that calls is told first: PEM of the authority's certificate, and 32 bytes (hex) that its token's key has to sign.
    `relay_port`: where devices that nobody can dial find the member `coordinator_id`; 0: nowhere."""

    fleet_id: str
    authority: str
    nonce: str
    relay_port: int = 0
    coordinator_id: str = ""


@dataclass(frozen=True)
class JoinRequest:
    """A board that calls. `address` is where it is called back: the one it calls from, with the port that it names. The rest are its own
    words: PEM of a signing request, and hex of the invitation's nonce, the token's public key and its signature."""

    address: str
    signing_request: str
    nonce: str
    token_key: str
    token_signature: str


@dataclass(frozen=True)
class MembershipView:
    """What a board gets that was taken in: PEM texts."""

    device_id: str
    certificate: str
    authority: str
