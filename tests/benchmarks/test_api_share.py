"""The API's share of each token: matched by prompt and place, within the time that counts, errors told and not skipped."""

from __future__ import annotations

import json

import pytest

from benchmarks.api_share import Client, figures, tokens_of


def chunk(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text}]}).encode()


def test_a_piece_of_several_tokens_came_at_once() -> None:
    assert tokens_of([(1.0, chunk("A")), (2.0, chunk("BC")), (3.0, chunk(""))]) == [1.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="full"):
        tokens_of([(1.0, b'data: {"error": "full"}')])


def test_shares_are_of_the_tokens_that_were_read_in_time() -> None:
    calm, broken = Client(0), Client(1)
    calm.lines = {"5 5": [(10.5, chunk("A")), (11.5, chunk("BC")), (13.5, chunk("D"))], "5 6": [(11.0, chunk("A"))]}
    broken.lines, broken.errors = {"6 5": [(11.0, b'data: {"error": "full"}')]}, ["OSError"]
    told = {"5 5": [10.25, 11.0, 11.25, 13.0], "6 5": [10.0]}  # nothing was told of "5 6"
    found = figures([calm, broken], told, 11.0, 13.0, 1.0)
    assert found.shares == [0.5, 0.25]
    assert (found.tokens, found.tokens_per_second, found.coordinator_cpu) == (2, [1.0, 0.0], 0.5)
    assert found.errors == ["OSError", "full"]
