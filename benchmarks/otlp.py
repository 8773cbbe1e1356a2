"""What telling an OpenTelemetry receiver of a request costs: the event loop that answers requests, and the thread that makes its spans.

python -m benchmarks.otlp
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time

from fleet.telemetry.otlp import OtlpExport
from fleet.telemetry.otlp_settings import OtlpSettings
from fleet.telemetry.views import EndedRequest, FinishedRequest, StageShare
from tests.support.otlp_receiver import receiving

SHARE = StageShare(0, "id", "board", 1.0, 0.5, 2.5, "modelled", 7, 63)
REQUEST = FinishedRequest(
    model="glm",
    deployment="prod",
    finish_reason="stop",
    prompt_tokens=7,
    completion_tokens=64,
    ttft_seconds=0.75,
    tpot_seconds=0.01,
    modelled_ttft_seconds=None,
    modelled_tpot_seconds=None,
    total_seconds=1.5,
    queue_seconds=0.25,
)


async def measure(count: int, stages: int) -> None:
    ended = EndedRequest("r1", time.time() - 2.0, time.time(), REQUEST, (SHARE,) * stages)
    with receiving() as receiver:
        async with OtlpExport(lambda: "", OtlpSettings(receiver.url, metrics=False)) as export:
            begun = _thread_seconds()
            on_loop = 0.0
            for _ in range(count):
                at = time.perf_counter()
                export.ended(ended)
                on_loop += time.perf_counter() - at
                await asyncio.sleep(0.002)
            used = _thread_seconds() - begun
    print(f"{count} requests of {stages} stages: {1e6 * on_loop / count:.1f} µs each on the loop, {1e6 * used / count:.0f} µs in threads")
    print(f"{len(receiver.spans)} of {count * (5 + stages)} spans came")


def _thread_seconds() -> float:
    """CPU of the export's threads: its own, and the library's."""
    ours = [thread.ident for thread in threading.enumerate() if thread.name == "OTLP" or thread.name.startswith("OtelBatch")]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(ident)) for ident in ours if ident is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--stages", type=int, default=4)
    options = parser.parse_args()
    asyncio.run(measure(options.requests, options.stages))


if __name__ == "__main__":
    main()
