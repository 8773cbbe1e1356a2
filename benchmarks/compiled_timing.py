"""What it costs a simulated fleet to be timed by compiled programs: wall clock, real processes, pace "fast".

    python -m benchmarks.compiled_timing --model smollm2-135m       (of the home that GLMFLEET_HOME names)

Two fleets of the same boards, one timed by the roofline of their figures, one by programs of their chip, each a ring. They are deployed
one after the other, the second time with all programs known, and then asked by turns, since this machine's speed drifts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.product import serve
from benchmarks.simulator import ask
from fleet.cli.client import CoordinatorClient
from fleet.cli.sim_fleet import local_fleet
from fleet.home import Home
from fleet.planning.plan import PlanRequest
from sim_devices.local_fleet import DeviceSpec
from sim_devices.profiles import TIMINGS


def deployed(client: CoordinatorClient, request: PlanRequest, name: str) -> tuple[float, tuple[str, ...]]:
    """Seconds until it is ready with its weights there already or not; why the plan is so."""
    begin, why = time.perf_counter(), tuple[str, ...]()
    with closing(client.deploy(request, name)) as events:
        for event in events:
            why = event.plan.why if event.plan else why
    return time.perf_counter() - begin, why


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--profile", default="rk3588")
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--asks", type=int, default=6, help="of each fleet, by turns")
    options = parser.parse_args(arguments)
    artifacts = Home.open(None).artifacts
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Home.open(Path(folder) / "home")
        home.artifacts.symlink_to(artifacts.resolve(), target_is_directory=True)
        boards = local_fleet(home)
        stack.callback(boards.down)
        specs = [DeviceSpec(options.profile, prefix=timing, timing=timing) for timing in TIMINGS for _ in range(options.stages)]
        client = stack.enter_context(serve(home, len(boards.up(specs))))
        for again in ("", ", again"):
            for timing in TIMINGS:
                names = tuple(f"{timing}-{number}" for number in range(1, options.stages + 1))
                seconds, why = deployed(client, PlanRequest(options.model, stages=options.stages, devices=names), timing)
                print(f"deploy {timing}{again}: {seconds:.2f} s", flush=True)
        print("\n".join(line for line in why if "programs" in line))
        speeds: dict[str, list[float]] = {timing: [] for timing in TIMINGS}
        for seed in range(options.asks + 1):
            answers = {str(timing): ask(client, timing, seed) for timing in TIMINGS}
            assert len({answer.token_ids for answer in answers.values()}) == 1, "the text depends on the timing"
            for name, answer in answers.items():
                speeds[name] += [1 / answer.tpot_seconds] if seed and answer.tpot_seconds else []
        medians = {timing: statistics.median(found) for timing, found in speeds.items()}
        for name, speed in medians.items():
            print(f"{name}: {speed:.1f} tokens/s of wall time ({min(speeds[name]):.1f} to {max(speeds[name]):.1f})")
        print(f"compiled / roofline: {medians['compiled'] / medians['roofline']:.3f}")


if __name__ == "__main__":
    main()
