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


@dataclass(frozen=True)
class DepartureView:
    """A device that is of the fleet no more. `wiped`: it has said that it removes its models and its key."""

    device_id: str
    name: str
    wiped: bool


@dataclass(frozen=True)
class TokenView:
    """An enrolment token. `token` is told once, when it is made; times are unix seconds."""

    token_id: str
    expires: float
    used_by: str = ""  # a device's id
    token: str = ""
