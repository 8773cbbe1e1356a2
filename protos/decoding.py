"""How a deployment decodes: row by row, or by runs of two rows and more."""

from __future__ import annotations

from typing import Literal

# "rows": one row of a sequence in a step, which is the least work, and whose last bits are not those of a prefill. "pairs": at least two,
# whose bits are those of any other run of two and more: so a draft is verified exactly, and what was decoded is as if it were prefilled.
DecodeMode = Literal["rows", "pairs"]

# Rows of one sequence in one decode step: a token that is known and the drafts behind it.
MOST_RUN_ROWS = 16


def decode_mode(name: str) -> DecodeMode:
    """The mode that a message names; "" is rows. Raises ValueError."""
    match name:
        case "" | "rows":
            return "rows"
        case "pairs":
            return "pairs"
    raise ValueError(f"no way to decode: {name!r}")
