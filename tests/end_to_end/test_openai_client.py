"""OpenAI's own client against a real fleet: what its prompts are rated and embedded as."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from tests.support.served_fleet import served_fleet

NO_KEY = "none"  # the client wants one  # pragma: allowlist secret
TEXT = "the quick brown fox jumps over the lazy dog"


@pytest.mark.long
async def test_prompts_are_rated_and_embedded_alike_on_one_device_and_on_three(tmp_path: Path) -> None:
    found = []
    for stages in (1, 3):
        async with (
            served_fleet(tmp_path / str(stages), stages) as url,
            openai.DefaultAsyncHttpxClient(trust_env=False) as plain,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=NO_KEY, max_retries=0, http_client=plain) as client,
        ):
            read = (await client.completions.create(model="tiny", prompt=TEXT, echo=True, logprobs=2, max_tokens=0)).choices[0]
            assert (read.text, read.finish_reason) == (TEXT, "length")
            assert read.logprobs is not None
            assert read.logprobs.tokens is not None
            assert read.logprobs.token_logprobs is not None
            assert "".join(read.logprobs.tokens) == TEXT
            rated: list[float | None] = list(read.logprobs.token_logprobs)
            assert rated[0] is None
            assert all(one is not None and one < 0 for one in rated[1:])
            stream = await client.completions.create(
                model="tiny", prompt=TEXT, echo=True, logprobs=2, max_tokens=4, temperature=0, stream=True
            )
            parts = [chunk.choices[0] async for chunk in stream]
            assert parts[0].text == TEXT
            assert parts[0].logprobs is not None
            assert parts[0].logprobs.token_logprobs == read.logprobs.token_logprobs
            vectors = (await client.embeddings.create(model="tiny", input=[TEXT, "a", TEXT])).data
            assert vectors[0].embedding == vectors[2].embedding != vectors[1].embedding
            assert sum(one * one for one in vectors[0].embedding) == pytest.approx(1.0)
            with pytest.raises(openai.BadRequestError, match="fills no blanks"):
                await client.completions.create(model="tiny", prompt="a", suffix="b")
            found.append((read.logprobs, "".join(part.text for part in parts), vectors[0].embedding))
    assert found[0] == found[1]
