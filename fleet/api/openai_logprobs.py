"""Log probabilities in OpenAI's two shapes."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

from fleet.answering.views import LikelyToken, PromptToken, TokenLogprobs


def chat_logprobs(tokens: Iterable[TokenLogprobs]) -> dict[str, Any]:
    """Of a chat."""
    return {"content": [{**_token(one), "top_logprobs": [_token(other) for other in one.likeliest]} for one in tokens], "refusal": None}


class TextLogprobs:
    """Of a plain completion, whose parts count on: `text_offset` is where in the text that is told a token begins."""

    def __init__(self) -> None:
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def skip(self, characters: int) -> None:
        """The first tokens begin with so many that are not told: what a tokenizer puts before every text."""
        self._offset -= characters

    def told(self, tokens: Iterable[TokenLogprobs | PromptToken]) -> dict[str, Any]:
        """Beside the likeliest stands the token itself, if it is none of them. Of tokens that are written alike the likeliest is told. The
        first of a prompt has null."""
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for one in tokens:
            found["tokens"].append(one.text)
            found["token_logprobs"].append(one.logprob)
            likeliest: dict[str, float] = {}
            for other in one.likeliest:
                likeliest.setdefault(other.text, other.logprob)
            if one.likeliest and one.logprob is not None:
                likeliest.setdefault(one.text, one.logprob)
            found["top_logprobs"].append(None if one.logprob is None else likeliest)
            found["text_offset"].append(max(0, self._offset))
            self._offset += len(self._characters.decode(bytes(one.bytes)))
        return found


def _token(one: LikelyToken) -> dict[str, Any]:
    return {"token": one.text, "logprob": one.logprob, "bytes": list(one.bytes)}
