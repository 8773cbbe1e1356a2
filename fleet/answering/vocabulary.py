"""A model's vocabulary as its head is told of it."""

from __future__ import annotations

from device.text.confined import ConfinedText
from protos.v1 import pipeline_pb2 as pb

PART_TOKENS = 16384  # some 150 kB


def vocabulary_parts(text: ConfinedText) -> tuple[pb.Vocabulary, ...]:
    """In their order. Blocks for some tenths of a second at first."""
    whole = text.vocabulary
    parts: list[pb.Vocabulary] = []
    for first in range(0, len(whole.tokens), PART_TOKENS):
        parts.append(pb.Vocabulary(first=first, tokens=whole.tokens[first : first + PART_TOKENS]))
    parts[-1].special.extend(whole.special)
    parts[-1].ends.extend(whole.ends)
    return tuple(parts)
