"""A program for tests: says when the kernel tells that the network has changed."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from protos.net.kernel import told_by_kernel


async def main() -> None:
    with told_by_kernel() as told:
        say(listens=True)
        while True:
            await told.wait()
            told.clear()
            say(told=True, at=time.monotonic())


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
