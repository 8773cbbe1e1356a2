"""The text that a model is measured on, cut into windows of tokens."""

from __future__ import annotations

import platform
import pydoc_data.topics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import InvalidInput
from protos.manifest import ModelConfig

TokenIds = npt.NDArray[np.int64]

WINDOW_TOKENS = 512
# Every Python has it: some 130,000 tokens of technical English with code.
DEFAULT_TEXT = f"CPython {platform.python_version()}, pydoc_data.topics"


@dataclass(frozen=True)
class Window:
    """A sequence from its start. Its first `prefix` rows see each other, and predict nothing; all others see those before them, and fill
    the blank that is row `blank` of the prefix."""

    token_ids: TokenIds
    prefix: int = 0
    blank: int = 0


def default_text() -> str:
    return "\n".join(pydoc_data.topics.topics.values())


def windows(token_ids: Sequence[int], tokens: int, window_tokens: int = WINDOW_TOKENS) -> list[Window]:
    """The first `tokens` tokens in windows, whole ones only; a text that is shorter than one is one. Raises InvalidInput for no text."""
    ids = np.array(token_ids[:tokens], np.int64)
    _check_length(ids)
    if len(ids) < window_tokens:
        return [Window(ids)]
    return [Window(ids[start : start + window_tokens]) for start in range(0, len(ids) - window_tokens + 1, window_tokens)]


def continued_windows(
    token_ids: Sequence[int], frame: tuple[Sequence[int], Sequence[int]], tokens: int, window_tokens: int, config: ModelConfig
) -> list[Window]:
    """For a model that fills blanks: half of each window is a prefix that ends in the blank for what follows, the other half is that.

    `frame`: the tokens that its tokenizer puts before and behind every text. Raises InvalidInput for no text.
    """
    before, behind = frame
    ids = np.array(token_ids[:tokens], np.int64)
    _check_length(ids)
    size = min(len(ids), window_tokens - len(before) - len(behind) - 2)
    if size < 2:
        raise InvalidInput(
            f"a window of {window_tokens} tokens has no room for a text", advice="the model's positions are too few to measure"
        )
    made = []
    for start in range(0, len(ids) - size + 1, size):
        given, rest = np.split(ids[start : start + size], [size // 2])
        prefix = np.concatenate([np.array(before, np.int64), given, [config.mask_token_ids[-1]], np.array(behind, np.int64)])
        made.append(Window(np.concatenate([prefix, [config.start_token_id], rest]), len(prefix), len(before) + len(given)))
    return made


def filled_window(token_ids: TokenIds, config: ModelConfig) -> Window:
    """Of a prefix with a blank, the token that begins the fill, and the fill. Raises InvalidInput."""
    starts = np.flatnonzero(token_ids == config.start_token_id)
    blanks = np.flatnonzero(np.isin(token_ids[: starts[0] if len(starts) == 1 else 0], config.mask_token_ids))
    if not len(blanks):
        raise InvalidInput(
            f"a sequence has no blank with one {config.start_token_id} behind it, which begins its fill",
            advice=f"this model fills blanks ({', '.join(map(str, config.mask_token_ids))}): give it a prefix with one, and the fill",
        )
    return Window(token_ids, int(starts[0]), int(blanks[0]))


def _check_length(ids: TokenIds) -> None:
    if len(ids) < 2:
        raise InvalidInput("the text has less than two tokens", advice="nothing can be predicted of it: give a longer one with --text")
