"""Formats in a process of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from device.text import confined_formats
from device.text.confined import ConfinedText
from device.text.format_worker import FormatMaker
from device.text.formats import Format
from device.text.model import TextModel
from device.text.worker import Worker
from protos.errors import InvalidInput
from tests.support import tokenizer_files as files

TOKENIZER = files.byte_level()
TEXTS = {"tokenizer.json": TOKENIZER, "chat_template.jinja": files.CHATML.encode()}
WISH = Format(schema='{"type": "integer"}')


@pytest.fixture(scope="module")
def confined() -> Iterator[ConfinedText]:
    text = ConfinedText(TEXTS, [files.EOS], files.vocab_size(TOKENIZER))
    yield text
    text.close()


def test_a_grammar_is_the_models_own_and_made_once(confined: ConfinedText, monkeypatch: pytest.MonkeyPatch) -> None:
    here = FormatMaker(TextModel.load(TEXTS, [files.EOS], files.vocab_size(TOKENIZER)))
    made = confined.formats.grammar(WISH, False)
    assert made == here.grammar(WISH, False)
    assert confined.formats.grammar(WISH, True) != made
    monkeypatch.setattr(Worker, "ask", lambda *given: pytest.fail("it was asked again"))
    assert confined.formats.grammar(WISH, False) == made


def test_what_is_no_format_says_why(confined: ConfinedText) -> None:
    with pytest.raises(InvalidInput, match="Invalid type: strin"):
        confined.formats.grammar(Format(schema='{"type": "strin"}'), False)


def test_one_that_takes_too_long_ends_its_process_and_no_other(confined: ConfinedText, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(1500)}}
    with confined.maker(0) as maker:
        confined.formats.grammar(WISH, False)
        monkeypatch.setattr(confined_formats, "SECONDS", 0.005)
        with pytest.raises(InvalidInput, match="took too much time or memory for this format of the answer") as caught:
            confined.formats.grammar(Format(schema=json.dumps(many)), False)
        assert caught.value.advice
        assert maker.encode("hello")
        monkeypatch.setattr(confined_formats, "SECONDS", 60.0)
        assert confined.formats.grammar(Format(schema='{"type": "null"}'), False)
