"""The process in which formats of answers are made grammars; what it is told first is as `device.text.text_worker` is.

Apart from that one, which so need not load the engine: it is begun with every model, and for every long prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from device.grammar import Grammars
from device.text.formats import Format, grammar_of
from device.text.model import TextModel
from device.text.text_worker import serve


class FormatMaker:
    """Of one model. Making it takes some tenths of a second."""

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self._grammars = Grammars(model.words.vocabulary(model.vocab_size, model.eos_token_ids))

    def grammar(self, wish: Format, in_thought: bool) -> str:
        """That an answer of this format fits, in the model's own way to think and to call; it was compiled and its first tokens found.
        `in_thought`: the prompt has opened the model's thought. Raises InvalidInput for what is no format, or too large a one."""
        text = grammar_of(wish, self._model.call_form, in_thought=in_thought, may_think=self._model.may_think)
        self._grammars.compile(text).allowed(())
        return text


class _Lazy:
    """Made with the first question: what is wrong with the model's vocabulary is an answer to it."""

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self._maker: FormatMaker | None = None

    def __call__(self, asked: Mapping[str, Any]) -> str:
        self._maker = self._maker or FormatMaker(self._model)
        wish = asked["format"]
        return self._maker.grammar(Format(**{**wish, "tools": tuple(wish["tools"]), "called": tuple(wish["called"])}), asked["in_thought"])


if __name__ == "__main__":
    serve(_Lazy)
