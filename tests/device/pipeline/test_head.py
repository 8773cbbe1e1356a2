"""The head of a ring: what it does when no ring can be built, and with tokens that it is told to force."""

from __future__ import annotations

from pathlib import Path

import pytest

from device.pipeline.head import Head
from device.pipeline.link import Link
from protos.errors import Unavailable
from protos.manifest import Manifest
from quantize.artifact.store import ArtifactStore
from tests.support.checkpoints import TinyGlm
from tests.support.ring import ring, tiny_model

PROMPT = list(range(5, 21))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ArtifactStore]:
    return tiny_model(tmp_path_factory.mktemp("model"), TinyGlm(layers=5))


async def test_what_is_kept_is_freed_in_time_though_no_ring_could_be_built(
    tmp_path: Path, model: tuple[Manifest, ArtifactStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, enter = list[Head](), Head.__aenter__

    async def entered(head: Head) -> Head:
        heads.append(head)
        return await enter(head)

    async def unreachable(link: Link) -> Link:
        raise Unavailable("nobody answers there")

    monkeypatch.setattr(Head, "__aenter__", entered)
    monkeypatch.setattr(Link, "__aenter__", unreachable)
    async with ring(tmp_path, *model, 2) as two:
        with pytest.raises(Unavailable, match="nobody answers"):
            async with two.client():
                pass
        assert heads[0].stage.orphaned_since is not None


async def test_forced_tokens_are_prefilled_where_too_many_would_be_replayed(tmp_path: Path, model: tuple[Manifest, ArtifactStore]) -> None:
    """The rounding of another way of computing may change the text; of this model and prompt it does not."""
    async with ring(tmp_path, *model, 2) as two, two.client() as client:
        whole = (await client.ask(PROMPT, 40)).token_ids
        for forced, most, forced_prefilled in ((30, 28, 30), (30, 29, 0), (2, 0, 2), (1, 0, 0)):
            rest = await client.ask(PROMPT, 40, forced=whole[:forced], most_replayed=most)
            assert rest.token_ids == whole[forced:]
            assert rest.finished.timing.forced_prefilled == forced_prefilled
            assert rest.finished.timing.completion_tokens == 40
            assert {usage.decode_rows for usage in rest.finished.usage} == {40 - 1 - forced_prefilled}
