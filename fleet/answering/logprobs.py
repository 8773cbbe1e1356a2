"""The head's log probabilities, with the tokens' text."""

from __future__ import annotations

from device.text.words import Words
from fleet.answering.views import LikelyToken, TokenLogprobs
from protos.v1 import pipeline_pb2 as pb


def told(words: Words, token_id: int, found: pb.Logprobs) -> TokenLogprobs:
    """Of one token of an answer."""
    likeliest = tuple(_likely(words, one, value) for one, value in zip(found.ids, found.values, strict=False))
    return TokenLogprobs(**vars(_likely(words, token_id, found.chosen)), likeliest=likeliest)


def _likely(words: Words, token_id: int, value: float) -> LikelyToken:
    raw = words.token_bytes(token_id)
    return LikelyToken(token_id, raw.decode(errors="replace"), tuple(raw), value)
