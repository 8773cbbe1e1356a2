"""The text that a model is measured on, cut into windows of tokens."""

from __future__ import annotations

import platform
import pydoc_data.topics
from collections.abc import Sequence

import numpy as np

from protos.errors import InvalidInput
from quantize.quality.scores import TokenIds

WINDOW_TOKENS = 512
# Every Python has it: some 130,000 tokens of technical English with code.
DEFAULT_TEXT = f"CPython {platform.python_version()}, pydoc_data.topics"


def default_text() -> str:
    return "\n".join(pydoc_data.topics.topics.values())


def windows(token_ids: Sequence[int], tokens: int, window_tokens: int = WINDOW_TOKENS) -> list[TokenIds]:
    """The first `tokens` tokens in windows, whole ones only; a text that is shorter than one is one. Raises InvalidInput for no text."""
    ids = np.array(token_ids[:tokens], np.int64)
    if len(ids) < 2:
        raise InvalidInput("the text has less than two tokens", advice="nothing can be predicted of it: give a longer one with --text")
    if len(ids) < window_tokens:
        return [ids]
    return [ids[start : start + window_tokens] for start in range(0, len(ids) - window_tokens + 1, window_tokens)]
