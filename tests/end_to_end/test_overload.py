"""More requests than there are places: each is answered right or told to come back; none is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from fleet.home import Home
from tests.support.processes import Glmfleet, wait_for

SLOTS = 16


@pytest.fixture(scope="module")
def url(fleet: Glmfleet) -> Iterator[str]:
    running = Home(fleet.home).running_coordinator()
    assert running is not None
    wait_for(lambda: len(fleet.states()) == 5, 20)
    deployed = fleet("deploy", "tiny", "--name", "crowd", "--stages", 2, "--context", 256, "--slots", SLOTS)
    assert deployed.returncode == 0, deployed.stderr
    yield running.url
    assert fleet("undeploy", "crowd").returncode == 0


def body(number: int, more: int = 0) -> dict[str, object]:
    prompt = [72 + number % 5, *range(20, 20 + number % 7)]
    return {"model": "crowd", "prompt_ids": prompt, "max_tokens": 3 + number % 5 + more, "temperature": 0, "stream": False}


async def ask_all(url: str, count: int, more: int = 0) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as http:
        return await asyncio.gather(*(http.post("/api/v1/generate", json=body(number, more)) for number in range(count)))


async def test_two_hundred_at_once_are_all_answered_as_if_alone(url: str) -> None:
    kinds = 5 * 7  # of body()
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        alone = [(await http.post("/api/v1/generate", json=body(number))).json()["token_ids"] for number in range(kinds)]
    answers = await ask_all(url, 200)
    assert Counter(answer.status_code for answer in answers) == {200: 200}
    for number, answer in enumerate(answers):
        assert answer.json()["token_ids"] == alone[number % kinds]


async def test_who_finds_the_queue_full_is_told_when_to_come_back(url: str) -> None:
    # Long answers: requests must come faster than they are served, on a busy machine too.
    answers = await ask_all(url, 420, more=120)
    codes = Counter(answer.status_code for answer in answers)
    assert set(codes) <= {200, 429}
    assert codes[200] >= SLOTS
    assert codes[429]
    for answer in answers:
        if answer.status_code == 429:
            assert float(answer.headers["Retry-After"]) > 0
            assert answer.json()["error"]["code"] == "Busy"
        else:
            assert answer.json()["finish_reason"] in ("length", "stop")
    # And the deployment is as fresh as before.
    assert [answer.status_code for answer in await ask_all(url, 8)] == [200] * 8
