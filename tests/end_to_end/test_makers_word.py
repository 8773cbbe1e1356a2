"""What a checkpoint's maker says of sampling reaches the answer of a request that says nothing, and only of that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from fleet.home import Home
from tests.support.processes import Glmfleet

PROMPT = {"prompt": [72, 101, 108, 108, 111], "max_tokens": 24}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("greedy", {"do_sample": False}),
        pytest.param("the-likeliest", {"do_sample": True, "top_k": 1}, marks=pytest.mark.long),
        pytest.param("its-own-nucleus", {"do_sample": True, "temperature": 0.9, "top_p": 1e-4}, marks=pytest.mark.long),
    ],
)
def test_a_request_that_says_nothing_is_sampled_as_the_maker_says(
    fleet: Glmfleet, checkpoint: Path, tmp_path: Path, name: str, said: Mapping[str, object]
) -> None:
    """Each of these leaves one token to choose from; without them OpenAI's temperature of 1 holds."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / name))
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    for words in (["model", "import", folder, "--name", name], ["deploy", name, "--context", 128]):
        done = fleet(*words)
        assert done.returncode == 0, done.stderr
    try:
        (greedy,) = answers(fleet, {"model": name, "temperature": 0})
        assert answers(fleet, {"model": name}, {"model": name}) == [greedy, greedy]
        wild = {"model": name, "temperature": 2, "top_p": 1, "top_k": 0}  # over 272 tokens that are all about as likely
        assert len(set(answers(fleet, wild, wild))) == 2
    finally:
        assert fleet("undeploy", name).returncode == 0


def answers(fleet: Glmfleet, *bodies: dict[str, Any]) -> list[str]:
    running = Home(fleet.home).running_coordinator()
    assert running is not None
    with httpx.Client(base_url=running.url, trust_env=False, timeout=30) as http:
        return [http.post("/v1/completions", json={**PROMPT, **body}).raise_for_status().json()["choices"][0]["text"] for body in bodies]
