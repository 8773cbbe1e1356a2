"""The house: the tables of Ollama's fields say what the code does with each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fleet.api.ollama_fields import CALL, CHAT, EMBED, FUNCTION, GENERATE, MESSAGE, OPTIONS
from fleet.api.ollama_request import OllamaChatBody, OllamaEmbedBody, OllamaGenerateBody, OllamaMessage, OllamaOptions
from tests.house.test_openai_page import state

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "ollama.md").read_text()
FIELDS = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|", PAGE, re.MULTILINE)}
OF_OPTIONS = {
    name: said
    for names, said in re.findall(r"^\| (`.*`) \| (\w+) \|", PAGE.partition("## Options")[2], re.MULTILINE)
    for name in re.findall(r"`(\w+)`", names)
}


@pytest.mark.parametrize("name", FIELDS)
def test_each_row_says_what_the_code_does(name: str) -> None:
    assert FIELDS[name] == (state(name, OllamaChatBody, CHAT), state(name, OllamaGenerateBody, GENERATE))


@pytest.mark.parametrize("name", OF_OPTIONS)
def test_each_option_is_what_the_code_does(name: str) -> None:
    assert OF_OPTIONS[name] == state(name, OllamaOptions, OPTIONS)


def test_nothing_is_left_out() -> None:
    known = {
        *OllamaChatBody.model_fields,
        *OllamaGenerateBody.model_fields,
        *CHAT.harmless,
        *CHAT.refused,
        *GENERATE.harmless,
        *GENERATE.refused,
    }
    assert known == FIELDS.keys()
    assert {*OllamaOptions.model_fields, *OPTIONS.harmless, *OPTIONS.refused} == OF_OPTIONS.keys()
    (paragraph,) = [text for text in PAGE.split("\n\n") if text.startswith("`/api/embed` takes")]
    honoured = {*OllamaEmbedBody.model_fields, *OllamaMessage.model_fields}
    others = {*honoured, *EMBED.harmless, *MESSAGE.harmless, *CALL.harmless, *FUNCTION.harmless}
    assert set(re.findall(r"`(\w+)`", paragraph)) == others - {"shift"}
