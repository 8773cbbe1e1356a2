"""What it costs a simulated fleet to be timed by compiled programs: wall clock, real processes, pace "fast".

    python -m benchmarks.compiled_timing --model smollm2-135m       (of the home that GLMFLEET_HOME names)
    python -m benchmarks.compiled_timing --compile                  (the compiler alone, and an estimate on the device)

Two fleets of the same boards, one timed by the roofline of their figures, one by programs of their chip, each a ring. They are deployed
one after the other, the second time with all programs known, and then asked by turns, since this machine's speed drifts.
"""

from __future__ import annotations

import argparse
import statistics
import time
import timeit
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial

from benchmarks.boards import throwaway_boards
from benchmarks.codesign import EDGE
from benchmarks.product import serve
from benchmarks.simulator import ask
from fleet.cli.client import CoordinatorClient
from fleet.planning.plan import PlanRequest
from protos.manifest import Quantization
from protos.physics.timing import Decode, StageRun
from quantize.artifact.costs import stage_cost
from quantize.compiler.ladder import unmade
from quantize.compiler.stage_times import CompiledPrograms, Model
from quantize.parts import stage_parts
from sim_devices.chip.core_profiles import load_core
from sim_devices.hardware import timing_of
from sim_devices.local_fleet import DeviceSpec
from sim_devices.profiles import TIMINGS, load_profile


def compiling() -> None:
    """CPU seconds for all that four stages, or one, may run: of the default model's shape and of GLM-Edge-1.5B's."""
    small = replace(EDGE, hidden_size=576, layers=30, heads=9, kv_heads=3, head_dim=64, intermediate_size=1536, vocab_size=49_152)
    print("| model | chip | stages | contexts to | programs | CPU s |\n|---|---|---|---|---|---|")
    for name, config, block, context in (("135M", small, 32, 2048), ("1.5B", EDGE, 128, 4096)):
        manifest = unmade(config, Quantization(8, block, True))
        for chip in ("edge-npu", "hbm-card"):
            for stages in (4, 1):
                core, begin, count = load_core(chip).core("generic"), time.process_time(), 0
                for number in range(stages):
                    edges = [config.layers * (number + end) // stages for end in (0, 1)]
                    parts = stage_parts(manifest, *edges, head=number == 0)
                    programs = CompiledPrograms(Model.of(manifest), parts, core, "float32")
                    found = programs.listed(context, max(16 // stages, 2), 256)
                    count += len(found.layer_programs) + len(found.head_programs)
                print(f"| {name} | {chip} | {stages} | {context:,} | {count} | {time.process_time() - begin:.1f} |", flush=True)
        run = StageRun(stage_cost(manifest, parts), Decode((300,)), 1, programs=found)
        board = load_profile("rk3588").run_as("compiled")
        for words, model in (("roofline", board.roofline), ("programs", timing_of(board, core))):
            seconds = timeit.timeit(partial(model.estimate, run), number=2000) / 2000
            print(f"an estimate by {words}: {1e6 * seconds:.0f} us", flush=True)


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
    parser.add_argument("--compile", action="store_true", help="measure the compiler alone")
    options = parser.parse_args(arguments)
    if options.compile:
        compiling()
        return
    with throwaway_boards() as (home, boards), ExitStack() as stack:
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
