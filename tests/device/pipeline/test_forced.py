"""Drafts by a grammar: what it forces, and what others propose where it leaves a choice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from device.pipeline.drafter import FORCED_MATCH, Draft
from device.pipeline.forced import ForcedText
from device.pipeline.guides import Guide, Guides
from tests.support.grammars import BYTES, lark, told

CALL = {"name": {"const": "weather"}, "city": {"type": "string"}}
SCHEMA = {"type": "object", "properties": CALL, "required": list(CALL), "additionalProperties": False}


class Nothing:
    """Knows of one token that may come."""

    def __init__(self) -> None:
        self.text: list[int] = []

    def extend(self, tokens: Iterable[int]) -> None:
        self.text += tokens

    def propose(self) -> Draft:
        return Draft((99,), 1)


async def guided(grammar: str) -> Guide:
    guides = Guides(len(BYTES.tokens))
    for request in told():
        guides.learn(request.vocabulary)
    guide, ready = guides.guide(grammar), asyncio.Event()
    loop = asyncio.get_running_loop()
    guide.when_ready(lambda: loop.call_soon_threadsafe(ready.set))
    await ready.wait()
    guides.close()
    return guide


async def test_what_the_grammar_forces_comes_first() -> None:
    other = Nothing()
    drafter = ForcedText(await guided(lark(SCHEMA)), b'{"', other)
    assert drafter.propose() == Draft(tuple(b'name":"weather"'[:15]), FORCED_MATCH)
    drafter.extend(b'name":"weather",')
    assert drafter.propose() == Draft(tuple(b'"city":"'), FORCED_MATCH)
    drafter.extend(b'"city":"')
    assert drafter.propose() == Draft((99,), 1)
    assert bytes(other.text) == b'name":"weather","city":"'


async def test_a_grammar_that_cannot_be_kept_forces_nothing() -> None:
    broken = await guided("start: nonsense nonsense")
    assert ForcedText(broken, (), Nothing()).propose() == Draft((99,), 1)
    strayed = ForcedText(await guided(lark(SCHEMA)), b"[", Nothing())
    assert strayed.propose() == Draft((99,), 1)
