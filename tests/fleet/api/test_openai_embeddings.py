"""Embeddings in OpenAI's shape."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from fleet.answering.views import GenerateRequest
from protos.errors import NotFound
from tests.support.fake_coordinator import RESULT, FakeCoordinator

ROUTE = "/v1/embeddings"


@pytest.fixture(autouse=True)
def embedded(coordinator: FakeCoordinator) -> None:
    coordinator.chunks = ()
    coordinator.result = dataclasses.replace(RESULT, text="", token_ids=(), completion_tokens=0, embedding=(3.0, 0.0, 4.0, 12.0))


def requests(coordinator: FakeCoordinator) -> list[GenerateRequest]:
    return [one for one in coordinator.asked if isinstance(one, GenerateRequest)]


async def test_openais_client_gets_vectors_of_length_1(peer: openai.AsyncOpenAI, coordinator: FakeCoordinator) -> None:
    """It asks for base64 by itself."""
    answer = await peer.embeddings.create(model="tiny", input=["one", "two"])
    assert [one.index for one in answer.data] == [0, 1]
    assert answer.data[1].embedding == pytest.approx([3 / 13, 0, 4 / 13, 12 / 13])
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (8, 8)
    assert [(one.text, one.max_tokens, one.embedding) for one in requests(coordinator)] == [("one", 0, True), ("two", 0, True)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("x", [{"text": "x"}]),
        ([5, 6], [{"prompt_ids": (5, 6)}]),
        ([[5], [6, 7]], [{"prompt_ids": (5,)}, {"prompt_ids": (6, 7)}]),
        (["a"] * 40, [{"text": "a"}] * 40),
    ],
)
async def test_each_form_of_input(
    coordinator: FakeCoordinator, http: httpx.AsyncClient, given: Any, expected: list[dict[str, Any]]
) -> None:
    answer = (await http.post(ROUTE, json={"model": "tiny", "input": given})).json()
    assert requests(coordinator) == [GenerateRequest(model="tiny", max_tokens=0, embedding=True, **one) for one in expected]
    assert len(answer["data"]) == len(expected)
    assert answer["usage"].keys() == {"prompt_tokens", "total_tokens", "seconds", "energy"}


async def test_base64_is_of_the_same_numbers_and_fewer_of_them_are_normalised_anew(http: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "input": "x"}
    plain = (await http.post(ROUTE, json=body)).json()["data"][0]["embedding"]
    packed = (await http.post(ROUTE, json={**body, "encoding_format": "base64"})).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == plain
    short = (await http.post(ROUTE, json={**body, "dimensions": 3})).json()["data"][0]["embedding"]
    assert short == pytest.approx([0.6, 0.0, 0.8])


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": None}, "input"),
        ({"dimensions": 5}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"truncate_prompt_tokens": 9}, "truncate_prompt_tokens"),
        ({"normalize": False}, "normalize"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_name(http: httpx.AsyncClient, given: dict[str, Any], param: str) -> None:
    answer = await http.post(ROUTE, json={"model": "tiny", "input": "x", **given})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)


async def test_harmless_fields_and_a_model_that_is_not_there(coordinator: FakeCoordinator, http: httpx.AsyncClient) -> None:
    assert (await http.post(ROUTE, json={"model": "tiny", "input": "x", "user": "me"})).status_code == 200
    coordinator.error = NotFound("no deployment nil")
    answer = await http.post(ROUTE, json={"model": "nil", "input": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
