"""What it costs that a standby is sent the rows of the caches for which it stands by: decode with one beside decode with none.

python -m benchmarks.mirroring --model smollm2-135m --rounds 6       (of the home that GLMFLEET_HOME names)

Five simulated devices, each a process: the model on two of them, and on two others with the fifth as their standby. One stream at a time,
in turn, on fresh prompts. On one machine the standby's own work is paid for too; on two hosts it is not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from benchmarks.boards import deploy, throwaway_boards
from benchmarks.product import serve
from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.client import CoordinatorClient
from fleet.deploying.desired import Policy
from fleet.planning.plan import PlanRequest
from protos.errors import TimedOut
from sim_devices.local_fleet import DeviceSpec

PROMPT, STAGES = 32, 2
READY_SECONDS = 60.0


def decode(client: CoordinatorClient, deployment: str, number: int, tokens: int) -> float:
    """Tokens per second behind the first."""
    prompt = tuple((number * 997 + 31 * index) % 1000 + 100 for index in range(PROMPT))
    request = GenerateRequest(model=deployment, prompt_ids=prompt, max_tokens=tokens, ignore_eos=True)
    came, count = [0.0], 0
    for part in client.generate(request):
        if not isinstance(part, GenerateResult):
            came.append(time.perf_counter())
            count += len(part.token_ids) if len(came) > 2 else 0
    return count / (came[-1] - came[1])


def ready(client: CoordinatorClient, deployment: str) -> None:
    """Wait for the standby. Raises TimedOut."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        view = next(view for view in client.deployments() if view.name == deployment)
        if [one.state for one in view.pipelines[0].standbys] == ["ready"]:
            return
        time.sleep(0.1)
    raise TimedOut(f"the standby was not ready within {READY_SECONDS:.0f} s")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--profile", default="raspberry-pi-5")
    parser.add_argument("--tokens", type=int, default=160, help="of each answer")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args(arguments)
    with throwaway_boards() as (home, boards), ExitStack() as stack:
        names = [board.name for board in boards.up([DeviceSpec(options.profile)] * (2 * STAGES + 1))]
        client = stack.enter_context(serve(home, len(names)))
        for name, devices, standby in (("bare", names[:STAGES], 0), ("mirrored", names[STAGES:], 1)):
            request = PlanRequest(options.model, stages=STAGES, context=512, slots=4, devices=tuple(devices))
            deploy(client, request, name, policy=Policy(standby=standby))
        ready(client, "mirrored")
        measured: dict[str, list[float]] = {"bare": [], "mirrored": []}
        for number in range(options.rounds + 1):  # the first of each is not counted
            for name in ("bare", "mirrored") if number % 2 else ("mirrored", "bare"):
                measured[name].append(decode(client, name, number, options.tokens))
        figures = {name: [round(one, 1) for one in speeds[1:]] for name, speeds in measured.items()}
        print(figures)
        ratio = median(figures["mirrored"]) / median(figures["bare"])
        print(f"decode with a standby ÷ without: {ratio:.3f} ({options.rounds} rounds; 0.99 is wanted)")


if __name__ == "__main__":
    main()
