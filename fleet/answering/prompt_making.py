"""Where prompts are made: in threads that wait for the processes of `device.text.confined`, so many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeVar

from device.text.confined import ConfinedMaker, ConfinedText
from fleet.answering import prompts
from fleet.answering.views import GenerateRequest
from fleet.answering.vocabulary import vocabulary_parts
from protos.errors import Busy, Unavailable
from protos.manifest import ModelConfig
from protos.sampling import TokenRules
from protos.v1 import pipeline_pb2 as pb

SHORT_AT_ONCE = 8  # of as many models: those of one follow each other
LONG_AT_ONCE = 2  # each has a process of its own
LONG_WAITING = 32  # more are refused: each is held as long as its client waits

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class MadePrompt:
    token_ids: list[int]
    rules: TokenRules
    vocabulary: tuple[pb.Vocabulary, ...] = ()  # where the rules have a grammar, which the head cannot keep without


class PromptMaking:
    """An async context manager; on exit, what is being made is given up."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(SHORT_AT_ONCE, "short prompt")
        self._long = ThreadPoolExecutor(LONG_AT_ONCE, "long prompt")
        self._long_open = 0
        self._makers: set[ConfinedMaker] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed = True
        for maker in self._makers:
            maker.leave()
        for pool in (self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

    async def load(self, load: Callable[[], _Made]) -> _Made:
        """Run what loads a model's text."""
        return await self._run(self._short, load)

    async def make(self, text: ConfinedText, request: GenerateRequest, config: ModelConfig, context: int) -> MadePrompt:
        """Raises InvalidInput, and Busy when too many long prompts wait."""
        maker = text.maker(prompts.characters(request))
        if not maker.is_long:
            return await self._made(self._short, text, maker, request, config, context)
        if self._long_open >= LONG_AT_ONCE + LONG_WAITING:
            raise Busy(f"{LONG_WAITING} long prompts are waiting already", advice="ask again later", retry_after_seconds=1.0)
        self._long_open += 1
        try:
            return await self._made(self._long, text, maker, request, config, context)
        finally:
            self._long_open -= 1

    async def _made(
        self,
        pool: ThreadPoolExecutor,
        text: ConfinedText,
        maker: ConfinedMaker,
        request: GenerateRequest,
        config: ModelConfig,
        context: int,
    ) -> MadePrompt:
        def make() -> MadePrompt:
            with maker:
                ids, wish = prompts.prompt_ids(maker, request, config, context), prompts.format_of(request)
                made = MadePrompt(ids, prompts.token_rules(maker, request))
            if wish.free:
                return made
            grammar = text.formats.grammar(wish, text.words.opens_thought(ids))
            return MadePrompt(ids, replace(made.rules, grammar=grammar), vocabulary_parts(text))

        self._makers.add(maker)
        try:
            return await self._run(pool, make)
        except asyncio.CancelledError:
            maker.leave()
            raise
        finally:
            self._makers.discard(maker)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], _Made]) -> _Made:
        if self._closed:
            raise Unavailable("the coordinator is stopping", advice="ask again when it is back")
        return await asyncio.get_running_loop().run_in_executor(pool, work)
