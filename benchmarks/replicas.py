"""What a second pipeline brings: tokens a second of many streams together, in modelled time, by one replica and by two.

python -m benchmarks.replicas --model smollm2-135m       (of the home that GLMFLEET_HOME names)

Four simulated boards compute as quickly as this machine can and report modelled time. Each row asks all streams at once; its rate is all
tokens over the longest modelled time of a stream, waiting for a slot included. Answers are compared: they must not depend on the replicas.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.boards import deploy, throwaway_boards
from benchmarks.product import serve
from fleet.answering.views import GenerateRequest, GenerateResult
from fleet.cli.client import CoordinatorClient, connect
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from sim_devices.local_fleet import DeviceSpec

BOARDS = 4
CONTEXT = 1024


@dataclass(frozen=True)
class Load:
    """Of one stream."""

    key: str
    name: str
    prompt: int
    answer: int
    slots: int  # of one pipeline


@dataclass(frozen=True)
class Measured:
    tokens_per_second: float  # modelled, all streams, prompt tokens included
    answers: tuple[tuple[int, ...], ...]


def ask(home: Home, deployment: str, load: Load, stream: int) -> GenerateResult:
    """A prompt that no other stream's begins like."""
    prompt = tuple((stream * 997 + 31 * index) % 1000 + 100 for index in range(load.prompt))
    with connect(home) as client:
        *_, result = client.generate(GenerateRequest(model=deployment, prompt_ids=prompt, max_tokens=load.answer, ignore_eos=True))
    assert isinstance(result, GenerateResult)
    return result


def measure(home: Home, client: CoordinatorClient, model: str, load: Load, stages: int, replicas: int, streams: int) -> Measured:
    name = f"{load.key}-{replicas}"
    request = PlanRequest(model, stages=stages, context=CONTEXT, slots=load.slots)
    deploy(client, request, name, replicas)
    with ThreadPoolExecutor(streams) as pool:
        results = list(pool.map(lambda stream: ask(home, name, load, stream), range(streams)))
    used = {view.pipeline_id for view in client.requests() if view.deployment == name}
    assert len(used) == replicas, f"requests went to {used}"
    client.undeploy(name)
    longest = max((one.modelled_ttft_seconds or 0.0) + (one.modelled_tpot_seconds or 0.0) * (len(one.token_ids) - 1) for one in results)
    tokens = sum(one.completion_tokens + one.prompt_tokens for one in results)
    return Measured(tokens / longest, tuple(one.token_ids for one in results))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--profile", default="raspberry-pi-5")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--stages", type=int, default=2, help="of each pipeline")
    options = parser.parse_args(arguments)
    loads = [
        Load("decode", "decode, a slot for every stream", 32, 64, options.streams),
        Load("half", "decode, slots for half the streams", 32, 64, options.streams // 2),
        Load("prompts", "prompts of 512 tokens, a slot for every stream", 512, 8, options.streams),
    ]
    with throwaway_boards() as (home, boards), ExitStack() as stack:
        boards.up([DeviceSpec(options.profile)] * BOARDS)
        client = stack.enter_context(serve(home, BOARDS))
        print(f"{options.streams} streams, {options.stages} stages a pipeline, {BOARDS} {options.profile}")
        print("tokens/s in modelled time, prompts included\n")
        print("| load | 1 replica | 2 replicas | ratio | same answers |\n|---|---|---|---|---|")
        for load in loads:
            one, two = (measure(home, client, options.model, load, options.stages, replicas, options.streams) for replicas in (1, 2))
            ratio = two.tokens_per_second / one.tokens_per_second
            same = "yes" if one.answers == two.answers else "no"
            print(f"| {load.name} | {one.tokens_per_second:.0f} | {two.tokens_per_second:.0f} | {ratio:.2f} | {same} |", flush=True)


if __name__ == "__main__":
    main()
