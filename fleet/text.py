"""Texts from outside, as Python holds them: some cannot be written down."""

from __future__ import annotations


def is_text(words: str) -> bool:
    """Whether it is Unicode: not so with half of a surrogate pair, which JSON can escape and which stands for a byte that was no text."""
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True
