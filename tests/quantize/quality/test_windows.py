"""Texts in windows, for models that go on and for models that fill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from protos.errors import InvalidInput
from quantize.checkpoints.huggingface import open_huggingface
from quantize.quality.windows import continued_windows, filled_window, windows
from tests.support.blanks import GOLDEN, expected

with open_huggingface(GOLDEN) as checkpoint:
    CONFIG = replace(checkpoint.config, mask_token_ids=(101, 102, 103), start_token_id=100)


def test_whole_windows_only_unless_the_text_is_shorter() -> None:
    assert [window.token_ids.tolist() for window in windows(range(11), 9, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [window.token_ids.tolist() for window in windows(range(3), 9, 4)] == [[0, 1, 2]]
    with pytest.raises(InvalidInput, match="less than two"):
        windows([1], 9)


def test_half_of_a_window_is_given_and_half_is_to_come() -> None:
    made = continued_windows(range(20), ([90], [91]), 17, 10, CONFIG)
    # Of 10 places six are for the text: two frame it, one is the blank, one begins the fill.
    assert [window.token_ids.tolist() for window in made] == [
        [90, 0, 1, 2, 103, 91, 100, 3, 4, 5],
        [90, 6, 7, 8, 103, 91, 100, 9, 10, 11],
    ]
    assert [(window.prefix, window.blank) for window in made] == [(6, 4), (6, 4)]
    (short,) = continued_windows(range(5), ([], []), 17, 100, CONFIG)
    assert short.token_ids.tolist() == [0, 1, 103, 100, 2, 3, 4]
    with pytest.raises(InvalidInput, match="less than two"):
        continued_windows([1], ([], []), 17, 100, CONFIG)
    with pytest.raises(InvalidInput, match="no room"):
        continued_windows(range(20), ([90], [91]), 17, 5, CONFIG)


def test_a_fill_begins_behind_its_prefix() -> None:
    assert filled_window(np.array([1, 101, 2, 100, 5, 6]), CONFIG).prefix == 3
    for ids in ([1, 2, 100, 5], [1, 101, 2], [100, 101, 5], [1, 101, 101, 100, 5, 100, 6]):
        with pytest.raises(InvalidInput, match="has no blank with one 100 behind it"):
            filled_window(np.array(ids), CONFIG)


@pytest.mark.parametrize("number", range(5))
def test_the_original_s_own_sequences(number: int) -> None:
    case = expected()[number]
    with open_huggingface(GOLDEN) as checkpoint:
        assert filled_window(case.ids, checkpoint.config).prefix == case.prefix
