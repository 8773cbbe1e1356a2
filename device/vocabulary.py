"""A model's vocabulary, as grammars need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """`tokens`: what each stands for, by id, b"" for a number that is none; `special` are no text; `ends` end an answer."""

    tokens: Sequence[bytes]
    special: Sequence[int]
    ends: Sequence[int]
