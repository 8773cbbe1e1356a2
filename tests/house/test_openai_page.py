"""The house: the tables of OpenAI's fields say what the code does with each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from pydantic import BaseModel

from fleet.api.openai_embeddings import EmbeddingsBody
from fleet.api.openai_fields import CHAT, COMPLETION, EMBEDDINGS, RESPONSES, Others
from fleet.api.openai_request import ChatBody, CompletionBody
from fleet.api.openai_responses_request import ResponsesBody

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "openai.md").read_text()


def rows_of(*routes: str) -> dict[str, tuple[str, ...]]:
    """What the table with these routes in its head says of each field."""
    (table,) = PAGE.split("| field | " + " | ".join(f"`{route}`" for route in routes) + " | notes |\n")[1:]
    row = re.compile(r"^\| `(\w+)`" + r" \| (\S+)" * len(routes) + r" \|", re.MULTILINE)
    return {found[1]: found.groups()[1:] for found in row.finditer(table.partition("\n\n")[0])}


# Of each table: the routes, their bodies and lists, and what OpenAI's own client sends.
CHATS = completion_create_params.CompletionCreateParamsBase.__annotations__ | chat_create_params.CompletionCreateParamsBase.__annotations__
TABLES: dict[tuple[str, ...], tuple[list[tuple[type[BaseModel], Others]], dict[str, Any]]] = {
    ("/v1/chat/completions", "/v1/completions"): ([(ChatBody, CHAT), (CompletionBody, COMPLETION)], {**CHATS, "stream": bool}),
    ("/v1/responses",): ([(ResponsesBody, RESPONSES)], {**response_create_params.ResponseCreateParamsBase.__annotations__, "stream": bool}),
    ("/v1/embeddings",): ([(EmbeddingsBody, EMBEDDINGS)], embedding_create_params.EmbeddingCreateParams.__annotations__),
}
ROWS = [(routes, name) for routes in TABLES for name in rows_of(*routes)]


def state(name: str, body: type[BaseModel], others: Others) -> str:
    if name in body.model_fields:
        return "works"
    return "harmless" if name in others.harmless else "refused" if name in others.refused else "–"


@pytest.mark.parametrize(("routes", "name"), ROWS)
def test_each_row_says_what_the_code_does(routes: tuple[str, ...], name: str) -> None:
    found = tuple(state(name, body, others) for body, others in TABLES[routes][0])
    # What the other route has is refused too, by name or as one that nobody knows.
    told = tuple("–" if "works" in found and one == "refused" and name not in ("echo", "suffix") else one for one in found)
    assert rows_of(*routes)[name] == told


@pytest.mark.parametrize("routes", TABLES)
def test_every_field_of_openais_own_client_that_is_known_here_has_a_row(routes: tuple[str, ...]) -> None:
    bodies, sent = TABLES[routes]
    known = {name for body, others in bodies for name in (*body.model_fields, *others.harmless, *others.refused)}
    assert sent.keys() & known - rows_of(*routes).keys() == set()
    assert len(rows_of(*routes)) >= 5
