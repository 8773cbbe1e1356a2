"""Log probabilities in OpenAI's two shapes."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

from fleet.answering.views import LikelyToken, TokenLogprobs


def chat_logprobs(tokens: Iterable[TokenLogprobs]) -> dict[str, Any]:
    """Of a chat."""
    return {"content": [{**_token(one), "top_logprobs": [_token(other) for other in one.likeliest]} for one in tokens], "refusal": None}


class TextLogprobs:
    """Of a plain completion, whose parts count on: `text_offset` is where in the answer's text a token begins."""

    def __init__(self) -> None:
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def told(self, tokens: Iterable[TokenLogprobs]) -> dict[str, Any]:
        """Beside the likeliest stands the chosen token, if it is none of them. Of tokens that are written alike the likeliest is told."""
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for one in tokens:
            found["tokens"].append(one.text)
            found["token_logprobs"].append(one.logprob)
            likeliest: dict[str, float] = {}
            for other in [*one.likeliest, one] if one.likeliest else ():
                likeliest.setdefault(other.text, other.logprob)
            found["top_logprobs"].append(likeliest)
            found["text_offset"].append(self._offset)
            self._offset += len(self._characters.decode(bytes(one.bytes)))
        return found


def _token(one: LikelyToken) -> dict[str, Any]:
    return {"token": one.text, "logprob": one.logprob, "bytes": list(one.bytes)}
