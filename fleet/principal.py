"""Who asks something of the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Principal:
    """`name` is for logs and accounts; `kind` is what rights follow from."""

    name: str
    kind: Literal["operator", "anonymous"]


# Whoever reaches the coordinator on loopback, or shows the key of its home.
LOCAL_OPERATOR = Principal("local", "operator")
# Whoever asks, without a key, whether the coordinator runs.
ANYONE = Principal("anyone", "anonymous")
