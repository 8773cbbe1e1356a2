"""The head's log probabilities, with the tokens' text."""

from __future__ import annotations

from collections.abc import Sequence

from device.text.words import Words
from fleet.answering.views import LikelyToken, PromptToken, TokenLogprobs
from protos.errors import Internal
from protos.v1 import pipeline_pb2 as pb


def of_prompt(words: Words, token_ids: Sequence[int], found: Sequence[pb.Logprobs] = ()) -> tuple[PromptToken, ...]:
    """Of a prompt's tokens; `found` are of all but the first, or of none. Raises Internal."""
    if found and len(found) != len(token_ids) - 1:
        raise Internal(f"{len(found)} log probabilities came of a prompt of {len(token_ids)} tokens")
    rated = [told(words, token_id, one) for token_id, one in zip(token_ids[1:], found, strict=False)]
    plain = [_likely(words, token_id, 0.0) for token_id in (token_ids[:1] if rated else token_ids)]
    return (
        *(PromptToken(one.token_id, one.text, one.bytes) for one in plain),
        *(PromptToken(**vars(one)) for one in rated),
    )


def told(words: Words, token_id: int, found: pb.Logprobs) -> TokenLogprobs:
    """Of one token of an answer."""
    likeliest = tuple(_likely(words, one, value) for one, value in zip(found.ids, found.values, strict=False))
    return TokenLogprobs(**vars(_likely(words, token_id, found.chosen)), likeliest=likeliest)


def _likely(words: Words, token_id: int, value: float) -> LikelyToken:
    raw = words.token_bytes(token_id)
    return LikelyToken(token_id, raw.decode(errors="replace"), tuple(raw), value)
