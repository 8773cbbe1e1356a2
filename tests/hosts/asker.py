"""A program for tests: asks the coordinator of a home for answers, several at once, as often as it is told to on stdin."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.client import connect
from fleet.home import Home


def ask(home: Home, prompt: list[int], tokens: int) -> Mapping[str, Any]:
    with connect(home) as coordinator:
        *_, result = coordinator.generate(GenerateRequest(prompt_ids=tuple(prompt), max_tokens=tokens, ignore_eos=True))
    assert isinstance(result, GenerateResult)
    return {
        "token_ids": result.token_ids,
        "first_seconds": result.ttft_seconds,
        "token_seconds": result.tpot_seconds,
        "busy_seconds": [device.busy_seconds for device in result.devices],
    }


def main(home: Home) -> None:
    say(asks=True)
    for line in sys.stdin:
        told = json.loads(line)
        started = time.perf_counter()
        with ThreadPoolExecutor(len(told["prompts"])) as threads:
            answers = list(threads.map(lambda prompt, tokens=told["tokens"]: ask(home, prompt, tokens), told["prompts"]))
        say(answers=answers, seconds=time.perf_counter() - started)


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Home(Path(sys.argv[1])))
