"""The head of a ring that computes nothing and tells a token for each of its sequences at each tick: what is behind it is measured alone.

A process of its own. On stdout a line with its address; once stdin ends another, with the moments (monotonic, seconds) at which the tokens
of each prompt were told, and how often a reader was waited for.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from protos.v1 import pipeline_pb2
from tests.support.fake_device import FakeDevice, _Sequence
from tests.support.members import TestFleet

FIRST_LETTER, LETTERS = 65, 26  # of the tokenizer of tests.support.checkpoints, whose ids below 256 are bytes: each token is a character
Tell = Callable[[pipeline_pb2.GenerateEvent], None]


class PacedHead(FakeDevice):
    """`groups` of sequences tick in turn, as so many rings would; a group's tokens are told at once, as a ring's round is."""

    def pace(self, groups: int, tokens_per_second: float) -> None:
        self.groups: list[list[_Told]] = [[] for _ in range(groups)]
        self.period = 1.0 / tokens_per_second
        self.told: dict[str, list[float]] = {}  # by the prompt's ids
        self._next = itertools.count()

    async def tick(self, number: int) -> None:
        """For ever: one group."""
        loop, group = asyncio.get_running_loop(), self.groups[number]
        at = loop.time() + self.period * number / len(self.groups)
        while True:
            at += self.period
            await asyncio.sleep(max(0.0, at - loop.time()))
            running = [one for one in group if one.sequence.running.is_set() and not one.over()]
            if running:
                now = time.perf_counter()
                for one in running:
                    one.moments.append(now)
                running[0].tell(pipeline_pb2.GenerateEvent(tokens=[one.event() for one in running]))
            for one in [one for one in group if one.over()]:
                group.remove(one)
                one.done.set()

    async def _answer(self, sequence: _Sequence, tell: Tell) -> None:
        submit = sequence.submit
        told = _Told(sequence, tell, self.told.setdefault(" ".join(map(str, submit.prompt_ids)), []))
        self.groups[next(self._next) % len(self.groups)].append(told)
        await told.done.wait()
        cancelled = pipeline_pb2.FINISH_REASON_CANCELLED
        reason = cancelled if sequence.is_cancelled else pipeline_pb2.FINISH_REASON_LENGTH
        timing = pipeline_pb2.SequenceTiming(prompt_tokens=len(submit.prompt_ids), completion_tokens=told.count, told_tokens=told.count)
        finished = pipeline_pb2.Finished(sequence=submit.sequence, reason=reason, usage=[self._usage()], timing=timing)
        tell(pipeline_pb2.GenerateEvent(finished=[finished]))


class _Told:
    """A sequence, and when each of its tokens was told."""

    def __init__(self, sequence: _Sequence, tell: Tell, moments: list[float]) -> None:
        self.sequence, self.tell, self.moments = sequence, tell, moments
        self.done = asyncio.Event()
        self.count = len(sequence.submit.forced_ids)

    def over(self) -> bool:
        return self.sequence.is_cancelled or self.count >= self.sequence.submit.max_tokens

    def event(self) -> pipeline_pb2.TokenEvent:
        token, self.count = FIRST_LETTER + self.count % LETTERS, self.count + 1
        return pipeline_pb2.TokenEvent(sequence=self.sequence.submit.sequence, index=self.count - 1, token_id=token)


async def serve(folder: Path, groups: int, tokens_per_second: float) -> None:
    head = PacedHead(TestFleet.open(folder).member("head"), "head")
    head.pace(groups, tokens_per_second)
    async with head:
        ticking = [asyncio.create_task(head.tick(number), name=f"group {number}") for number in range(groups)]
        print(json.dumps({"address": head.address}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in ticking:
            task.cancel()
        await asyncio.gather(*ticking, return_exceptions=True)
        print(json.dumps({"told": head.told, "pauses": sum(head.pauses)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--tokens-per-second", type=float, default=20.0)
    options = parser.parse_args()
    asyncio.run(serve(options.folder, options.groups, options.tokens_per_second))


if __name__ == "__main__":
    main()
