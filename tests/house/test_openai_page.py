"""The house: the table of OpenAI's fields says what the code does with each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from pydantic import BaseModel

from fleet.api.openai_fields import CHAT, COMPLETION, Others
from fleet.api.openai_request import ChatBody, CompletionBody

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "openai.md").read_text()
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|", PAGE, re.MULTILINE)}


def state(name: str, body: type[BaseModel], others: Others) -> str:
    if name in body.model_fields:
        return "works"
    return "harmless" if name in others.harmless else "refused" if name in others.refused else "–"


@pytest.mark.parametrize("name", ROWS)
def test_each_row_says_what_the_code_does(name: str) -> None:
    found = (state(name, ChatBody, CHAT), state(name, CompletionBody, COMPLETION))
    # What the other route has is refused too, by name or as one that nobody knows.
    told = tuple("–" if "works" in found and one == "refused" and name not in ("echo", "suffix") else one for one in found)
    assert ROWS[name] == told


def test_every_field_of_openais_own_client_that_is_known_here_has_a_row() -> None:
    chat = chat_create_params.CompletionCreateParamsBase.__annotations__
    text = completion_create_params.CompletionCreateParamsBase.__annotations__
    known = {*ChatBody.model_fields, *CompletionBody.model_fields, *CHAT.harmless, *CHAT.refused}
    assert {*chat, *text, "stream"} & known - ROWS.keys() == set()
